# The modules, from a proxy of files.
. /test/common.sh
export GOPROXY=file:///dist/go GOSUMDB=off GOTOOLCHAIN=local GOCACHE=/cache/go GOFLAGS=-modcacherw
module=github.com/machnet/machnet/go
# Go remembers what is in a module of a version, and here the same version has another content from one run to the next.
GOMODCACHE="$HOME/modules-$(cat /dist/go/$module/@v/*.zip | sha256sum | head -c 16)"
export GOMODCACHE
mkdir program
{
    printf 'package main\n\nimport (\n\t"context"\n\t"fmt"\n\t"io"\n\n\tmachnet "%s"\n)\n\nfunc main() {\n' "$module"
    cat /test/lines.go
    echo '}'
} >program/main.go
cd program
go mod init example.com/program 2>/dev/null
go get "$module@v$VERSION" 2>/dev/null
go build -o lines .
expect "machnet $VERSION" "$(go run "$module/cmd/machnet" --version)"
go build -o machnet "$module/cmd/machnet"
start_sidecar ./machnet
expect "hello <nil>" "$(timeout 60 ./lines)"
stop_sidecar
