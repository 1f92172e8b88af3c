# The modules, from a proxy of files.
. /test/common.sh
export GOPROXY=file:///dist/go GOSUMDB=off GOTOOLCHAIN=local GOCACHE=/cache/go GOFLAGS=-modcacherw
module=github.com/machnet/machnet/go
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
