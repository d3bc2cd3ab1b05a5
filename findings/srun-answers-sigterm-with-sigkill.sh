#!/usr/bin/env bash
# Slurm 22.05.8 (Debian 12): SIGTERM to srun is not forwarded to its tasks; they are killed with SIGKILL at once.
#
# The manual page srun(1) says: "Signals sent to the srun command are automatically forwarded to the tasks it is
# controlling with a few exceptions", and names Ctrl-C and Ctrl-Z. SIGUSR2 is forwarded. SIGTERM is not: the tasks
# get SIGKILL in the same second, without the KillWait of 30 s. So `scancel --batch --signal=TERM JOB`, which asks
# the script of a batch job to end, kills all tasks of a script that became `exec srun ...`.
#
# Needs root on Debian 12 with network. Runs in a layer over the file system, in namespaces of its own; nothing stays.
# Exit status: 0 as described, 1 it behaves otherwise, 2 it could not be tried.
set -euo pipefail

VERSION=22.05.8-4+deb12u3

wait_for() {
  for _ in $(seq 100); do
    if "$@" &> /dev/null; then return; fi
    sleep 0.2
  done
  echo "not within 20 s: $*"
  exit 2
}

is_idle() { [ "$(sinfo -h -o %T)" = idle ]; }

inside() {
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install --yes --no-install-recommends \
      "slurm-wlm=$VERSION" "slurm-client=$VERSION" munge=0.5.15-2+deb12u1; } > /apt.log 2>&1 \
    || { tail -n 3 /apt.log; exit 2; }

  mkdir -p /try/state /try/spool
  chmod 755 /try
  local port=$((20000 + RANDOM % 10000)) host
  host=$(hostname -s)
  dd if=/dev/urandom of=/try/key bs=128 count=1 status=none
  chmod 400 /try/key
  export SLURM_CONF=/try/slurm.conf
  cat > $SLURM_CONF <<END
ClusterName=try
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthInfo=socket=/try/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=/try/state
SlurmdSpoolDir=/try/spool
SlurmctldPidFile=/try/slurmctld.pid
SlurmdPidFile=/try/slurmd.pid
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1
PartitionName=main Nodes=n1 Default=YES
END
  munged --foreground --force --socket=/try/munge --key-file=/try/key --pid-file=/try/munged.pid \
    --log-file=/try/munged.log --seed-file=/try/munged.seed &> /try/munged.out &
  wait_for test -S /try/munge
  slurmctld -D &> /try/slurmctld.out &
  slurmd -D -N n1 &> /try/slurmd.out &
  wait_for is_idle

  cat > /try/task <<'END'
#!/bin/bash
trap 'echo SIGTERM >> /try/heard' TERM
trap 'echo SIGUSR2 >> /try/heard' USR2
echo started >> /try/heard
while :; do sleep 0.1; done
END
  chmod 755 /try/task
  srun --version
  srun /try/task &> /try/srun.out &
  local srun=$!
  wait_for grep started /try/heard

  kill -USR2 $srun
  sleep 3
  echo "SIGUSR2 to srun. The task has heard: $(tail -n 1 /try/heard)"
  grep -q SIGUSR2 /try/heard && kill -0 $srun || { echo "it was not forwarded"; exit 1; }

  kill -TERM $srun
  sleep 5
  pgrep -f ^/bin/bash./try/task > /dev/null && { echo "SIGTERM to srun. The task lives on"; exit 1; }
  echo "SIGTERM to srun. 5 s later the task is dead; srun says:"
  sed 's/^/    /' /try/srun.out
  if grep -q SIGTERM /try/heard; then echo "The task has heard SIGTERM"; exit 1; fi
  echo "The task has not heard SIGTERM."
}

if [ "${1:-}" = inside ]; then
  inside
  exit
fi
[ "$(id -u)" = 0 ] || { echo "this must be run by root"; exit 2; }
grep -qs '^VERSION_ID="12"' /etc/os-release && grep -qs '^ID=debian' /etc/os-release \
  || { echo "this is for Debian 12"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/upper" "$folder/work" "$folder/root"
cp "$0" "$folder/upper/finding.sh"
# The mounts and the processes end with these namespaces.
FOLDER=$folder unshare --mount --pid --fork --kill-child bash -euc '
  mount -t overlay overlay -o "lowerdir=/,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$FOLDER/root"
  mount -t proc proc "$FOLDER/root/proc"
  mount --rbind /dev "$FOLDER/root/dev"
  mount --rbind /sys "$FOLDER/root/sys"
  exec chroot "$FOLDER/root" bash /finding.sh inside'
