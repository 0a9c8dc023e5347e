#!/usr/bin/env bash
# Two hosts on one machine: each has its own network, host name, processes, mounts, and an sshd.
#   hosts.sh up                    install packages (Debian), make node1 and node2, write their hostfile
#   hosts.sh exec HOST COMMAND..   run a command on a host, in the present folder
#   hosts.sh link HOST up|down     plug the network cable of a host in or out, at the switch between them
#   hosts.sh pid HOST              the host's first process, as this machine sees it
#   hosts.sh status                one line per host
#   hosts.sh down                  end the hosts with all that runs on them; nothing is left
# CSR_HOSTS=FOLDER holds keys and logs (default /tmp/csr-hosts): another folder is another pair.
# Exit code 77: they cannot be made here (not root, no packages, no namespaces); the last line has the reason.
set -euo pipefail
state="${CSR_HOSTS:-/tmp/csr-hosts}"
me="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")"
hosts=(node1 node2)
switch=switch # a third network, with nothing in it but the other ends of the hosts' cables
slots=1
# in the hosts' own network only: this machine never has such an address
address() { echo "10.213.7.${1#node}"; }

cannot() { echo "hosts.sh: $*" >&2; exit 77; }

install_missing() {
    local missing=() made="" guard=/usr/sbin/policy-rc.d
    command -v pdsh >/dev/null || missing+=(pdsh)
    [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
    command -v ssh >/dev/null || missing+=(openssh-client)
    command -v ip >/dev/null || missing+=(iproute2)
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || cannot "${missing[*]} missing, and there is no apt-get to install them"
    exec 8>/tmp/.csr-cluster-install.lock
    flock 8 # another pair of hosts may be installing
    if [ ! -e $guard ]; then # this machine is to have no sshd of its own from this
        printf '#!/bin/sh\nexit 101\n' >$guard
        chmod 755 $guard
        made=1
    fi
    local log
    log="$(mktemp)"
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        [ -z "$made" ] || rm -f $guard
        cannot "cannot install ${missing[*]}: $(tail -n 1 "$log")"
    fi
    [ -z "$made" ] || rm -f $guard
    rm -f "$log"
    exec 8>&-
}

first_process() { # of a host; nothing where it does not run
    local pid
    pid="$(cat "$state/$1.pid" 2>/dev/null)" || return 1
    # a number alone could by now be another process
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "/hosts.sh _live $state $1 " && echo "$pid"
}

enter() { # a host; replaces this shell
    local host="$1" pid
    shift
    pid="$(first_process "$host")" || { echo "hosts.sh: no host $host: hosts.sh up" >&2; exit 2; }
    exec nsenter --target "$pid" --net --uts --pid --mount --wd="$PWD" -- "$@"
}

write_settings() {
    local host
    ssh-keygen -q -t ed25519 -N '' -C csr-hosts -f "$state/key"
    ssh-keygen -q -t ed25519 -N '' -C csr-hosts -f "$state/hostkey"
    cat >"$state/sshd_config" <<END
HostKey $state/hostkey
AuthorizedKeysFile $state/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
PidFile none
END
    cat >"$state/ssh_config" <<END
Host *
  IdentityFile $state/key
  IdentitiesOnly yes
  UserKnownHostsFile $state/known_hosts
  LogLevel ERROR
END
    for host in "${hosts[@]}"; do
        echo "$host,$(address "$host"),127.0.1.1 $(cut -d ' ' -f 1,2 "$state/hostkey.pub")" \
            >>"$state/known_hosts"
        echo "$host slots=$slots" >>"$state/hostfile"
    done
}

live() { # the first process of a host, in its namespaces: when it ends, all others there end
    local host="$1" other
    hostname "$host"
    mount --make-rprivate /
    [ "$host" != $switch ] || live_as_switch
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/sshd
    # Debian gives a host's own name a loopback address, which is where gloo would have others connect to
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$host" >"$state/$host.hosts"
    for other in "${hosts[@]}"; do
        [ "$other" = "$host" ] || echo "$(address "$other") $other" >>"$state/$host.hosts"
    done
    mount --bind "$state/$host.hosts" /etc/hosts
    mount --bind "$state/ssh_config" /etc/ssh/ssh_config
    ip link set lo up
    touch "$state/$host.made"
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
    ip address add "$(address "$host")/24" dev eth0
    ip link set eth0 up
    /usr/sbin/sshd -D -f "$state/sshd_config" -E "$state/$host.sshd.log" &
    touch "$state/$host.ready"
    stay
}

live_as_switch() {
    local host
    ip link add bridge type bridge
    ip link set bridge up
    touch "$state/$switch.made"
    for host in "${hosts[@]}"; do
        until ip link set "$host" master bridge up 2>/dev/null; do sleep 0.05; done
    done
    touch "$state/$switch.ready"
    stay
}

stay() {
    trap 'exit 0' TERM
    while :; do # a shell that waits also buries orphans
        sleep 3600 &
        wait $! || true
    done
}

await() { # a command; up to 30 s
    local deadline=$((SECONDS + 30))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.05
    done
}

start() { # a host
    local host="$1" outer
    setsid unshare --net --uts --pid --mount --fork --kill-child --mount-proc \
        bash "$me" _live "$state" "$host" </dev/null >"$state/$host.log" 2>&1 8>&- &
    outer=$!
    await test -e "$state/$host.made" || cannot "$host does not start: $(tail -n 1 "$state/$host.log")"
    # setsid, in a script, and unshare become each other; the one child is the host
    awk '{print $1}' "/proc/$outer/task/$outer/children" >"$state/$host.pid"
}

up() {
    [ "$(id -u)" = 0 ] || cannot "needs root, for namespaces and sshd"
    if first_process node1 >/dev/null && first_process node2 >/dev/null; then
        echo "node1 and node2 are up: hostfile $state/hostfile"
        return
    fi
    install_missing
    down
    mkdir -p "$state"
    chmod 700 "$state"
    touch "$state/made-by-hosts.sh"
    trap down EXIT
    write_settings
    local host
    for host in $switch "${hosts[@]}"; do start "$host"; done
    # a cable: neither of its ends is on this machine, and it goes with the host
    for host in "${hosts[@]}"; do
        ip link add eth0 netns "$(first_process "$host")" type veth \
            peer name "$host" netns "$(first_process $switch)" ||
            cannot "no virtual network cable can be made"
    done
    await test -e "$state/$switch.ready" || cannot "$switch: $(tail -n 1 "$state/$switch.log")"
    for host in "${hosts[@]}"; do
        await test -e "$state/$host.ready" || cannot "$host: $(tail -n 1 "$state/$host.log")"
        await bash "$me" exec node1 ssh -o BatchMode=yes "$host" true ||
            cannot "no ssh to $host: $(cat "$state/$host"{,.sshd}.log 2>/dev/null | tail -n 1)"
    done
    trap - EXIT
    echo "node1 ($(address node1)) and node2 ($(address node2)) are up: hostfile $state/hostfile"
}

down() {
    local host pid
    for host in "${hosts[@]}" $switch; do
        pid="$(first_process "$host")" || continue
        kill -KILL "$pid" # the kernel ends all processes of its namespace with it
        await test ! -e "/proc/$pid"
    done
    [ ! -e "$state/made-by-hosts.sh" ] || rm -rf "$state"
}

status() {
    local host pid
    for host in "${hosts[@]}"; do
        if pid="$(first_process "$host")"; then
            echo "$host $(address "$host") up, first process $pid"
        else
            echo "$host down"
        fi
    done
}

case "${1:-}" in
    up | down | status) "$1" ;;
    exec) shift; enter "$@" ;;
    link) enter $switch ip link set "$2" "$3" ;;
    pid) first_process "$2" ;;
    _live) state="$2"; live "$3" ;;
    *) sed -n 2,10p "$me" >&2; exit 2 ;;
esac
