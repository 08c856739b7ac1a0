#!/usr/bin/env bash
# Deploys the demo on a cluster that is up, waits until it serves, and says what to try. Run again, it changes nothing.
#
#   demo/run.sh [NAME]      NAME is the cluster's, "xebec" without it
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
name=${1:-xebec}
xebec=${XEBEC:-$here/../bin/xebec}
tools=${XEBEC_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/xebec/tools}
PATH=$tools/bin:$PATH
KUBECONFIG=$("$xebec" kubeconfig --name "$name")
export KUBECONFIG

say() { printf 'demo: %s\n' "$*" >&2; }

mapfile -t images < <("$here/build-images.sh")
say "loading ${#images[@]} images into every node"
"$xebec" image load --name "$name" "${images[@]}"
kubectl apply -f "$here/demo.yaml" >/dev/null
say "waiting for the pods"
kubectl -n demo rollout status deployment/redis deployment/front --timeout=120s >&2

node=$(kubectl get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
for _ in $(seq 100); do
    answer=$(curl -fsS --max-time 2 "http://$node:30080/" 2>/dev/null) && break
    sleep 0.1
done
[ -n "${answer:-}" ] || { say "http://$node:30080/ does not answer"; kubectl -n demo get pods -o wide >&2; exit 1; }
printf '%s\n' "$answer"

cat <<NEXT

Next:
  export KUBECONFIG=$KUBECONFIG
  export PATH=$tools/bin:\$PATH                     # kubectl
  kubectl get pods -A -o wide
  curl http://$node:30080/                          # the NodePort, on any node
  kubectl -n demo exec deploy/redis -- redis-cli -h redis get visits     # by the service's name
  kubectl -n demo scale deployment front --replicas=6
NEXT
