# The packages, by npm, from files, without any script of theirs.
. /test/common.sh
npm() { node /usr/lib/npm/bin/npm-cli.js "$@"; }
case "$PLATFORM" in
    x86_64) name=linux-x64-gnu ;;
    aarch64) name=linux-arm64-gnu ;;
esac
mkdir program && cd program
npm init --yes >/dev/null
npm install --silent --offline --ignore-scripts --no-audit --no-fund "/dist/node/machnet-$VERSION.tgz" "/dist/node/machnet-$name-$VERSION.tgz"
expect "machnet $VERSION" "$(node_modules/.bin/machnet --version)"
expect "machnet $VERSION" "$(npm exec --offline -- machnet --version)"
start_sidecar node_modules/.bin/machnet
cp /test/lines.mjs lines.mjs
expect "question from 127.0.0.1
answer to question" "$(timeout 60 node lines.mjs)"
stop_sidecar
