#!/usr/bin/env bash
# A real SLURM on one machine: slurmctld on the host `login`, slurmd on `node1` and `node2`, munge on each.
# Each host has process, mount, network and name spaces of its own: nothing of this machine is touched, and
# nothing outlives a host's first process.
#   tests/helpers/slurm.sh up                 start it; nothing to do where it runs already
#   tests/helpers/slurm.sh exec COMMAND ..    run a command on login: sbatch, squeue, csr submit ..
#   tests/helpers/slurm.sh crash HOST         end a host as a power cut does
#   tests/helpers/slurm.sh down               end all of it, remove its folder
# CSR_SLURM=/path names the folder of its state: another folder is another cluster.
# Exit code 77: it cannot be made here; the last line has the reason.
set -euo pipefail
state="${CSR_SLURM:-${TMPDIR:-/tmp}/csr-slurm}"
nodes=(node1 node2)
packages=(munge slurmctld slurmd slurm-client iproute2 util-linux)

cannot() {
    echo "no SLURM here: $*" >&2
    exit 77
}

install_missing() {
    local program missing=
    for program in munged slurmctld slurmd sbatch ip unshare nsenter; do
        command -v "$program" >/dev/null || missing+=" $program"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || cannot "there is no apt-get to install$missing with"
    # Debian starts daemons when it installs them, unless this file forbids it
    local forbid=/usr/sbin/policy-rc.d made=
    if [ ! -e "$forbid" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$forbid"
        chmod 755 "$forbid"
        made=yes
    fi
    local failed=
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${packages[@]}"; } >/dev/null 2>&1 || failed=yes
    [ -z "$made" ] || rm -f "$forbid"
    [ -z "$failed" ] || cannot "apt-get could not install ${packages[*]}"
}

first_processes() { # "PID HOST" of every host of this cluster, by its command line
    local folder words
    for folder in /proc/[0-9]*; do
        mapfile -d '' -t words 2>/dev/null <"$folder/cmdline" || continue
        if [ "${words[1]:-}" = "$state/host.sh" ]; then echo "${folder#/proc/} ${words[2]}"; fi
    done
}

process_of() { # the oldest: one that a host has just forked has its words until it becomes another program
    first_processes | sed -n "s/ $1\$//p" | sort -n | head -n 1
}

on() { # HOST COMMAND ..; the command dies with this script, which nsenter alone would not see to
    local host="$1" process
    shift
    process="$(process_of "$host")"
    if [ -z "$process" ]; then
        echo "there is no host $host: tests/helpers/slurm.sh up" >&2
        return 1
    fi
    nsenter --target "$process" --mount --uts --net --pid --wd="$PWD" -- setpriv --pdeathsig TERM -- "$@"
}

crash() {
    local process
    process="$(process_of "$1")"
    [ -n "$process" ] || return 0
    kill -KILL "$process"
    while [ -e "/proc/$process" ]; do sleep 0.05; done
}

down() {
    local process host
    while read -r process host; do
        crash "$host"
    done < <(first_processes)
    rm -rf "$state"
}

write_configuration() {
    local node number=0
    mkdir -p "$state"/{etc,saved,log,spool} "${nodes[@]/#/$state/spool/}"
    chmod 755 "$state" "$state"/*
    { echo "127.0.0.1 localhost"; echo "10.79.0.254 login"; } >"$state/hosts"
    for node in "${nodes[@]}"; do
        number=$((number + 1))
        echo "10.79.0.$number $node" >>"$state/hosts"
    done
    (umask 077 && head -c 128 /dev/urandom >"$state/munge.key")
    # cred_expire: a requeued job is held back as long as a credential is valid, 120 s by default
    # linuxproc: the cgroups of a machine differ too much to lean on
    cat >"$state/etc/slurm.conf" <<CONF
ClusterName=csr
SlurmctldHost=login
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
StateSaveLocation=$state/saved
SlurmdSpoolDir=$state/spool/%n
SlurmdPidFile=/run/slurmd.pid
SlurmctldPidFile=/run/slurmctld.pid
SlurmdLogFile=$state/log/slurmd-%n.log
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node[1-${#nodes[@]}] CPUs=4 RealMemory=16000 Gres=gpu:2 Feature=big
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
CONF
    printf 'AutoDetect=off\nName=gpu File=/run/gpu[0-1]\n' >"$state/etc/gres.conf" # never opened
    printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$state/etc/cgroup.conf"
    write_host_script
}

write_host_script() {
    cat >"$state/host.sh" <<'HOST'
# First process of a host: host.sh NAME STATE
set -e
name="$1" state="$2"
hostname "$name"
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind "$state/hosts" /etc/hosts
mkdir -p /etc/slurm
mount --bind "$state/etc" /etc/slurm
ip link set lo up
if [ "$name" = login ]; then
    ip link add bridge type bridge
    ip address add 10.79.0.254/24 dev bridge
    ip link set bridge up
fi
for number in 0 1; do mknod "/run/gpu$number" c 195 "$number"; done
mkdir -m 755 /run/munge
install -m 400 "$state/munge.key" /run/munge/key
chown -R munge: /run/munge
touch "$state/$name.ready"
while [ ! -e "$state/$name.cabled" ]; do sleep 0.05; done
cd /run/munge
setpriv --reuid munge --regid munge --clear-groups munged --key-file "$PWD/key" --log-file "$PWD/log" \
    --pid-file "$PWD/pid" --seed-file "$PWD/seed" --socket "$PWD/munge.socket.2"
if [ "$name" = login ]; then slurmctld; else slurmd -N "$name"; fi
while :; do sleep 3600 & wait $! || :; done # reaps orphans too
HOST
}

start_host() {
    setsid unshare --fork --pid --mount --uts --net --mount-proc bash "$state/host.sh" "$1" "$state" \
        </dev/null >"$state/log/$1.log" 2>&1 &
    wait_for 10 "the host $1" test -e "$state/$1.ready"
}

cable() { # NODE ADDRESS: a cable from the node's eth0 to the bridge of login
    local login node
    login="$(process_of login)" node="$(process_of "$1")"
    ip link add "to-$1" netns "$login" type veth peer name eth0 netns "$node"
    on "$1" ip address add "$2/24" dev eth0
    on "$1" ip link set eth0 up
    on login ip link set "to-$1" master bridge up
}

wait_for() { # SECONDS WHAT COMMAND ..
    local until=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$until" ]; then
            tail -n 5 "$state"/log/*.log >&2 || :
            cannot "$what did not start"
        fi
        sleep 0.1
    done
}

all_idle() {
    local idle
    idle="$(on login sinfo --noheader --Node --partition main --states idle 2>/dev/null | wc -l)"
    [ "$idle" = "${#nodes[@]}" ]
}

up() {
    [ "$(id -u)" = 0 ] || cannot "only root can make one"
    install_missing
    unshare --pid --mount --uts --net --fork true 2>/dev/null || cannot "this root may not make namespaces"
    if on login sinfo >/dev/null 2>&1; then
        echo "up already"
        return
    fi
    down
    write_configuration
    local host
    for host in login "${nodes[@]}"; do start_host "$host"; done
    for host in "${nodes[@]}"; do cable "$host" "$(sed -n "s/ $host\$//p" "$state/hosts")"; done
    for host in login "${nodes[@]}"; do touch "$state/$host.cabled"; done
    wait_for 60 "slurmctld or slurmd" all_idle
    on login sinfo
}

case "${1:-}" in
    up) up ;;
    exec) shift && on login "$@" ;;
    crash) crash "${2:?the host}" ;;
    down) down ;;
    *) sed -n '2,10s/^# //p' "$0" && exit 2 ;;
esac
