# What every node of a cluster has in its environment, sourced before `ray start` and by every login. Edit the first lines.
export RLLOOP_SHARE="${RLLOOP_SHARE:-}"            # NFS export that holds the runs: HOST:/PATH (EFS, Filestore, own server)
export RLLOOP_NFS="${RLLOOP_NFS:-4.1}"             # version of NFS that it speaks; cluster/gpu-gcp.yaml sets 3
export RLLOOP_MOUNT="${RLLOOP_MOUNT:-/mnt/rlloop}" # where it is mounted, on every node the same

export RLLOOP_RUNS="$RLLOOP_MOUNT/runs"            # runs live on the share: every node writes its part of a checkpoint
export RAY_AUTH_MODE=token                         # the token of ~/.ray/auth_token, which file_mounts brings
export RAY_JOB_STOP_SIGNAL=SIGINT                  # `ray job stop` asks for a checkpoint ...
export RAY_JOB_STOP_WAIT_TIME_S=120                # ... and leaves time for it, instead of 3 s
export RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=900  # a trainer node may have to be started and set up first
export PATH="$HOME/rlloop/.venv/bin:$PATH"
