#!/usr/bin/env bash
# Makes a machine a node: the share, the project in ~/rlloop/.venv, and the weights of its type. Repeats do nothing twice.
#   bash ~/rlloop/cluster/setup.sh head|sampler|reward|trainer
set -euo pipefail
cd "$(dirname "$0")/.."
source cluster/env.sh
node="${1:?which type of node: head, sampler, reward or trainer}"

if command -v apt-get >/dev/null && ! { command -v g++ && command -v mount.nfs && python3 -c 'import ensurepip'; } >/dev/null 2>&1; then
  sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
  sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 install -y \
    build-essential make ninja-build nfs-common python3-venv python3-dev
fi

if ! mountpoint -q "$RLLOOP_MOUNT"; then
  [ -n "$RLLOOP_SHARE" ] || { echo "rlloop: nothing is mounted at $RLLOOP_MOUNT; set RLLOOP_SHARE in cluster/env.sh" >&2; exit 1; }
  sudo mkdir -p "$RLLOOP_MOUNT"
  sudo mount -t nfs -o "vers=$RLLOOP_NFS,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2" "$RLLOOP_SHARE" "$RLLOOP_MOUNT"
  [ -w "$RLLOOP_MOUNT" ] || sudo chown "$(id -u):$(id -g)" "$RLLOOP_MOUNT"
fi
mkdir -p "$RLLOOP_RUNS"

make .venv/.installed
grep -qs rlloop/cluster/env.sh ~/.bashrc || echo 'source ~/rlloop/cluster/env.sh' >> ~/.bashrc

generator="fluxaudio_s_44k_gclef vae_44k bigvgan_v2_44k"
rewards="tunejury clap_scoring mert_v1_330m roberta_base"
text="flan_t5_large clap_conditioning roberta_base"
finish="demucs_mdx_extra"                             # `rlloop generate` post-processes wherever there is a free card
case "$node" in
  head) weights="$generator $finish $text" ;;         # version 0, and the features of the prompts
  sampler | trainer) weights="$generator $finish" ;;
  reward) weights="$generator $finish $rewards" ;;    # the evaluator listens there, too
  *) echo "rlloop: '$node' is no type of node; expected head, sampler, reward or trainer" >&2; exit 1 ;;
esac
# shellcheck disable=SC2086
.venv/bin/rlloop weights fetch $weights
