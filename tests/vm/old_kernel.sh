# A kernel without tcx (before 6.6): said by name, with what to do, and nothing is left half made.
set -u
fail() { echo "FAILED: $*"; exit 1; }
xebec=${XEBEC:-../../bin/xebec}
$xebec up --nodes 1 --name vm --no-context --timeout-seconds 60 >/tmp/out 2>&1 && fail "a cluster on this kernel: $(cat /tmp/out)"
cat /tmp/out
grep -q 'tcx' /tmp/out || fail "what is missing is not named"
grep -q '6\.6' /tmp/out || fail "which kernel has it is not said"
$xebec down --name vm >/dev/null || fail "down"
[ ! -e /var/lib/xebec/vm ] || fail "a state directory is left"
echo "passed: what an old kernel lacks is named"
