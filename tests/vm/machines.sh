#!/usr/bin/env bash
# A cluster whose nodes are virtual machines with Debian's kernel 6.12, seen from the host.
set -uo pipefail
xebec=${XEBEC:-$(dirname "$0")/../../bin/xebec}
tools=${XEBEC_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/xebec/tools}
name=${XEBEC_VM_NAME:-machines}
state=/var/lib/xebec/$name
export KUBECONFIG=$state/kubeconfig
kubectl() { timeout 60 "$tools/bin/kubectl" "$@"; }
fail() {
    echo "FAILED: $*"
    "$xebec" status --name "$name"
    kubectl get nodes,pods,services -o wide
    kubectl get events | tail -n 20
    tail -n 8 "$state"/logs/*.log
    exit 1
}
step() { echo "$(date +%T) $*"; }
# Until a command succeeds, for SECONDS at most.
within() {
    local seconds=$1 end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || { echo "not within $seconds s: $*"; return 1; }
        sleep 1
    done
}
processes() { find /sys/fs/cgroup -path "*xebec/$name*" -name cgroup.procs -exec cat {} + | sort -nu; }
process() { "$xebec" status --name "$name" | awk -v of="$1" '$1 == of {print $4}'; }
machine() { pgrep -P "$(process "$name-$1")" qemu; }
agent() { "$xebec" exec --name "$name" "$1" -- cat /sys/fs/cgroup/agent/cgroup.procs; }
boot() { kubectl get node "$name-$1" -o 'jsonpath={.status.nodeInfo.bootID}'; }
has_booted_anew() { local now; now=$(boot "$1") && [ -n "$now" ] && [ "$now" != "$2" ]; }
is_ready() { [ "$(kubectl get node "$name-$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]; }
# What a pod, or the host, is told at an address.
from_pod() { kubectl exec "$1" -- timeout 10 nc "$2" "$3" </dev/null 2>/dev/null; }
from_host() { timeout 10 nc -w 8 "$1" "$2" </dev/null; }
pod_hears() { [ "$(from_pod "$1" "$2" "$3")" = "$4" ]; }
host_hears() { [ "$(from_host "$1" "$2")" = "$3" ]; }

"$xebec" down --name "$name" >/dev/null || exit 1
trap '"$xebec" down --name "$name" >/dev/null' EXIT

step "two machines"
"$xebec" up --vm --nodes 2 --name "$name" --no-context || fail up
for number in 1 2; do
    kernel=$(kubectl get node "$name-$number" -o 'jsonpath={.status.nodeInfo.kernelVersion}')
    case $kernel in 6.12.*) ;; *) fail "the kernel of node $number is $kernel" ;; esac
    [ "$("$xebec" exec --name "$name" "$number" -- uname -r)" = "$kernel" ] || fail "exec has another kernel"
    [ "$("$xebec" exec --name "$name" "$number" -- hostname)" = "$name-$number" ] || fail "the name of node $number"
done
[[ $("$xebec" status --name "$name") == *"virtual machines"* ]] || fail "status does not say what the nodes are"

step "commands in machines"
[ "$(echo word | "$xebec" exec --name "$name" 1 -- cat)" = word ] || fail "exec does not carry input"
"$xebec" exec --name "$name" 1 -- sh -c 'exit 7'
[ $? = 7 ] || fail "exec does not say how a command ended"

step "the host's files"
"$xebec" exec --name "$name" 1 -- sh -c 'mkdir /tmp/host && mount -t virtiofs host /tmp/host && [ -d /tmp/host/etc ]' || fail "the files are not there"
said=$("$xebec" exec --name "$name" 1 -- touch /tmp/host/etc/xebec-test 2>&1) && fail "a machine writes to the host"
[[ $said == *"Read-only file system"* ]] || fail "a machine is kept from writing by: $said"
"$xebec" exec --name "$name" 1 -- umount /tmp/host

step "a second up"
before=$(processes)
"$xebec" up --name "$name" --no-context >/dev/null || fail "a second up"
[ "$(processes)" = "$before" ] || fail "a second up has changed something"
said=$("$xebec" up --name "$name" --no-context --vm --vm-memory-mib 4096 2>&1) && fail "other machines are not refused"
[[ $said == *"which they stay"* ]] || fail "other machines are refused by: $said"

step "pods and services"
"$xebec" image load "$IMAGE" --name "$name" || fail "image load"
for number in 1 2; do
    kubectl apply -f - <<YAML || fail apply
apiVersion: v1
kind: Pod
metadata: {name: web-$number, labels: {app: web-$number}}
spec:
  nodeName: $name-$number
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: xebec.local/busybox:1
    command: [sh, -c, 'while true; do echo web-$number | nc -l -p 8080; done']
---
apiVersion: v1
kind: Service
metadata: {name: web-$number}
spec: {type: LoadBalancer, selector: {app: web-$number}, ports: [{port: 80, targetPort: 8080, nodePort: 3008$number}]}
YAML
done
kubectl_wait() { timeout 400 "$tools/bin/kubectl" wait --timeout=380s "$@"; }
kubectl_wait --for=condition=Ready pod/web-1 pod/web-2 || fail "the pods do not come up"
address() { kubectl get "$1" -o "jsonpath={$2}"; }
other=$(address pod/web-2 .status.podIP)
within 60 pod_hears web-1 "$other" 8080 web-2 || fail "pod to pod across machines"
within 60 pod_hears web-2 "$(address service/web-1 .spec.clusterIP)" 80 web-1 || fail "the service's address"
within 60 pod_hears web-1 web-2.default.svc.cluster.local 80 web-2 || fail "the service's name"
# By way of the node that does not have the pod.
one=$(address "node/$name-1" '.status.addresses[0].address')
within 60 host_hears "$one" 30082 web-2 || fail "the node port from the host"
balanced=$(address service/web-1 '.status.loadBalancer.ingress[0].ip')
within 60 host_hears "$balanced" 80 web-1 || fail "the load balancer's address from the host"

step "another binary"
newer=$(mktemp -d)
cp "$xebec" "$newer/xebec" && touch "$newer/xebec"
before=$(agent 1) web=$(kubectl get pod web-1 -o 'jsonpath={.status.containerStatuses[0].containerID}')
[[ $("$newer/xebec" up --name "$name" --no-context) == *"runs the new binary"* ]] || fail "up with another binary"
rm -rf "$newer"
has_another_agent() { local now; now=$(agent 1) && [ -n "$now" ] && [ "$now" != "$before" ]; }
within 60 has_another_agent || fail "the agent of node 1 is the old one"
[ "$(kubectl get pod web-1 -o 'jsonpath={.status.containerStatuses[0].containerID}')" = "$web" ] || fail "a pod did not stay"

step "a machine is killed"
before=$(boot 2)
kill -9 "$(machine 2)" || fail "no machine to kill"
within 300 has_booted_anew 2 "$before" || fail "the machine does not come back"
within 120 is_ready 2 || fail "the node is not ready again"
other=$(address pod/web-2 .status.podIP)
within 200 pod_hears web-1 "$other" 8080 web-2 || fail "the pod is not back with its machine"
within 60 host_hears "$one" 30082 web-2 || fail "the node port, afterwards"

step "what is left of it"
# As after a crash of the supervisor and of what a machine hangs on.
kill -9 "$(process supervisor)" "$(process "$name-1")" || fail "they do not run"
"$xebec" down --name "$name" || fail down
[[ $("$xebec" down --name "$name") == *"nothing to remove"* ]] || fail "down leaves something for down"
for path in "$state" "/run/xebec/$name" "/sys/class/net/xb-$name"; do
    [ ! -e "$path" ] || fail "$path is left"
done
find /sys/fs/cgroup -path "*xebec/$name*" | grep . && fail "cgroups are left"
echo "passed: a cluster of machines with the kernel $kernel"
