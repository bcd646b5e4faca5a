#!/usr/bin/env bash
# Prints which type of node this machine is, by its addresses (or by those given): the table of cluster/gpu-onprem.yaml.
set -euo pipefail
for address in ${*:-$(hostname -I)}; do
  case "$address" in
    10.0.0.11) echo trainer; exit ;;
    10.0.0.12) echo reward; exit ;;
    10.0.0.13 | 10.0.0.14) echo sampler; exit ;;
  esac
done
echo "rlloop: no address of this machine ($(hostname -I)) is in cluster/node_of.sh; add it there" >&2
exit 1
