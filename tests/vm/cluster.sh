# A cluster on a kernel of Debian's, with cgroup v2 alone.
set -u
fail() { echo "FAILED: $*"; $kubectl get pods -o wide; $kubectl get events; tail -n 5 /var/lib/xebec/vm/logs/*.log; exit 1; }
xebec=${XEBEC:-../../bin/xebec}
kubectl=$XEBEC_TOOLS/bin/kubectl
export KUBECONFIG=/var/lib/xebec/vm/kubeconfig
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || fail "not cgroup v2 alone"
$xebec up --nodes 2 --name vm --no-context --timeout-seconds 240 || fail up
$xebec image load "$IMAGE" --name vm || fail "image load"
$kubectl apply -f - <<YAML || fail apply
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: xebec.local/busybox:1
        command: [sh, -c, 'while true; do { read request; printf "HTTP/1.0 200 OK\r\n\r\n%s" "\$HOSTNAME"; } | nc -l -p 8080 >/dev/null; hostname | nc -l -p 8080; done']
        resources: {limits: {memory: 64Mi, cpu: 500m}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: xebec.local/busybox:1, command: [sh, -c, 'x=a; while true; do x=\$x\$x; done'], resources: {limits: {memory: 16Mi}}}
YAML
$kubectl rollout status deployment/web --timeout=240s || fail "the deployment does not come up"
pod=$($kubectl get pods -l app=web -o 'jsonpath={.items[0].metadata.name}')
[ "$($kubectl exec "$pod" -- cat /sys/fs/cgroup/memory.max)" = 67108864 ] || fail "the memory limit"
[ "$($kubectl exec "$pod" -- cat /sys/fs/cgroup/cpu.max)" = "50000 100000" ] || fail "the CPU limit"
$kubectl wait --for=jsonpath='{.status.containerStatuses[0].state.terminated.reason}'=OOMKilled pod/greedy --timeout=120s || fail "the greedy pod lives"
ip=$($kubectl get service web -o 'jsonpath={.spec.clusterIP}')
for url in "$ip 80" "web 80" "web.default.svc.cluster.local 80"; do
    said=$($kubectl exec "$pod" -- sh -c "for i in 1 2 3 4 5; do timeout 10 nc $url </dev/null && break; done")
    [ -n "$said" ] || fail "no answer from $url"
    echo "$url: answered by $said"
done
node=$($kubectl get nodes -o 'jsonpath={.items[0].status.addresses[0].address}')
said=$(for i in 1 2 3 4 5; do timeout 10 nc -w 5 "$node" 30080 </dev/null && break; done)
[ -n "$said" ] || fail "no answer from the NodePort"
$xebec down --name vm || fail down
find /sys/fs/cgroup -path '*xebec/vm*' | grep -q . && fail "cgroups are left"
ip link show xb-vm >/dev/null 2>&1 && fail "a link is left"
echo "passed: a cluster on $(uname -r) with cgroup v2 alone"
