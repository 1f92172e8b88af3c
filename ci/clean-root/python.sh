# The wheel, by pip, out of a folder.
. /test/common.sh
python3 -m venv env
env/bin/pip install --quiet --no-index --find-links /dist/python machnet
env/bin/python -c 'import machnet; machnet.attach()' 2>error && fail "it attached without a sidecar"
grep -q 'start one with `machnet up`' error || fail "$(cat error)"
expect "machnet $VERSION" "$(env/bin/python -m machnet --version)"
start_sidecar env/bin/python -m machnet
expect "b'question' from 127.0.0.1
answer to question" "$(env/bin/python /test/lines.py)"
stop_sidecar
