#!/usr/bin/env bash
# Runs in the machine of vm.sh: installs sqedge as README.md says, and prints a line for
# each check. What is waited for may take its time, since the machine may be emulated.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

site=https://localhost group=/sys/fs/cgroup/system.slice/sqedge.service failed=0

check() { # WHAT COMMAND...
	if "${@:2}" >/tmp/said 2>&1; then
		echo "ok      $1"
	else
		echo "FAILED  $1: $(cat /tmp/said)"
		failed=1
	fi
}
soon() { # COMMAND...: until it succeeds, or for two minutes
	local end=$((SECONDS + 120))
	until "$@"; do ((SECONDS < end)) && sleep .2 || return; done
}
is() { echo "$1, want $2"; [[ $1 == "$2" ]]; } # is GOT WANT
no() { ! "$@"; }

as() { curl -sS --max-time 60 --cacert /root.crt -H "@/$1" "${@:2}"; } # as WHO ARGUMENTS of curl
get() { as "$1" --http1.1 "$site/api/v2/select?c=1.1.1/1.1.1/1.1.1"; }
gets() { is "$(get "$1")" "Hello, phext"; } # gets TENANT
writes() { is "$(as "$1" -d 'Hello, phext' "$site/api/v2/update?c=1.1.1/1.1.1/1.1.1")" "Updated 12 bytes"; }
adds() { # TENANT
	as admin -d "{\"tenant_id\": \"$1\", \"quota_mb\": 10}" $site/api/v2/admin/tenants/add >/tmp/added &&
		sed -n 's/.*"api_key": "\(.*\)".*/Authorization: Bearer \1/p' /tmp/added >"/$1"
}
metric() { is "$(as admin $site/api/v2/metrics | sed -n "s/^$1 //p")" "$2"; } # metric SERIES WANT
gone() { # gone PIDS
	local pid
	for pid in $1; do no test -e "/proc/$pid" || return; done
}
ends() { # asks the tenant example for all it has, which takes memory
	as example -o /dev/null "$site/api/v2/json-export?p=large"
	journalctl -u sqedge | grep '"out of memory"'
}

edge() { systemctl show -p MainPID --value sqedge; }
worker() { cat "$group/tenants/$1/cgroup.procs"; } # of TENANT: its process
process() { as admin $site/api/v2/admin/workers | grep -A 3 "\"$1\"" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'; } # the same, as the edge says
spares() { metric sq_workers_spare "$(($(wc -l <$group/edge/cgroup.procs) - 1))"; }
limit() { is "$(cat "$group/tenants/$1")" "$2"; } # limit TENANT/FILE WANT
serves_within() { gets example && limit example/memory.max "$1"; } # serves_within BYTES: it is a request that starts another worker
limits() { sed -i "s/\"requests_per_second\"/$1, &/" /etc/sq/tenants.json; } # more of them, of the tenant example
own_user() { (($(stat -c %u "/proc/$(worker "$1")/task") >= 200000)); }

# load COMMAND...: runs it while a client asks, each time on a new connection, and
# succeeds if that was answered every time. (An HTTP/2 connection that makes way is closed
# after a second without a request, for which an emulated client may be too slow.)
load() {
	touch /tmp/loading
	{ while [[ -e /tmp/loading ]]; do get example; echo; sleep .05; done; } >/tmp/load 2>&1 &
	"$@" && sleep 2
	local result=$?
	rm /tmp/loading
	wait $!
	sort /tmp/load | uniq -c
	((result == 0)) && no grep -qv '^Hello, phext$' /tmp/load
}
# burn: has the worker of the tenant example work without a pause, until rest. It is asked
# past the edge, whose encryption would have most of an emulated processor.
burn() {
	touch /tmp/burning
	for _ in 1 2 3; do
		while [[ -e /tmp/burning ]]; do
			curl -s -o /dev/null --unix-socket /run/sq/example.sock 'http://sq/json-export?p=large&c=example'
		done &
	done
}
yields() { limit example/cpu.idle 1 && as admin $site/api/v2/admin/workers | grep '"yields": true'; }
rest() { rm /tmp/burning && wait; }
crowd() { # fills the group of the tenant example with processes until the kernel refuses one
	local worker
	worker=$(worker example)
	mkfifo /tmp/never
	sh -c "echo \$\$ >$group/tenants/example/cgroup.procs && for _ in \$(seq 600); do read -r _ </tmp/never & done"
	limit example/pids.peak 512 && soon alone "$worker"
}
alone() { # ends what is in the group of the tenant example beside its worker
	# shellcheck disable=SC2046 # a word for each process
	kill -KILL $(worker example | grep -vx "$1")
	is "$(worker example)" "$1"
}

install -m 0755 bin/caddy bin/sq-worker /usr/local/bin/
install -m 0644 -D deploy/sqedge.sysusers.conf /etc/sysusers.d/sqedge.conf
install -m 0644 -D deploy/sqedge.tmpfiles.conf /etc/tmpfiles.d/sqedge.conf
install -m 0644 deploy/sqedge.service deploy/sqedge.socket /etc/systemd/system/
systemd-sysusers sqedge.conf
systemd-tmpfiles --create sqedge.conf
install -m 0640 -g sq Caddyfile /etc/sq/
sed 's/REPLACE ME: \(pmb-[a-z0-9]*-\).*digits/\10123456789abcdef0123456789abcdef/' deploy/tenants.json.example | install -m 0600 -o sq -g sq /dev/stdin /etc/sq/tenants.json
install -d -m 0700 -o sq -g sq /var/lib/sq/tenants/example
sed -i -e '/default_bind {/d' -e '/# default_bind fd/,/# }/s/# //' -e 's/# sandbox default/sandbox strict/' /etc/sq/Caddyfile
install -D /dev/stdin /etc/systemd/system/sqedge.service.d/site.conf <<<$'[Service]\nEnvironment=SQ_SITE=localhost'
echo 'Authorization: Bearer pmb-admin-0123456789abcdef0123456789abcdef' >/admin
echo 'Authorization: Bearer pmb-v1-0123456789abcdef0123456789abcdef' >/example
systemctl daemon-reload
systemctl enable -q --now sqedge.socket

check "the edge starts under sandbox strict" systemctl start sqedge
check "it has a certificate" soon cp /var/lib/sq/caddy/pki/authorities/local/root.crt /root.crt
check "a tenant writes" soon writes example
check "and reads" gets example
check "a second tenant is added" adds calm
check "and writes" soon writes calm

check "the edge has a group of its own" grep -x "$(edge)" $group/edge/cgroup.procs
check "with the spare workers" soon spares
check "and twice the weight of all workers" is "$(cat $group/edge/cpu.weight $group/tenants/cpu.weight | xargs)" "200 100"
check "a worker is alone in its group" is "$(worker calm)" "$(process calm)"
check "memory.max is twice memory_mb and 768 MiB" limit example/memory.max $((896 << 20))
check "of which none is swapped" limit example/memory.swap.max 0
check "pids.max is 512" limit example/pids.max 512
check "and not to be exceeded" crowd
# While a worker yields, which requests beside one that rests suffice for where the
# processor is emulated, the kernel knows no weight.
check "cpu.weight is 100" soon limit example/cpu.weight 100
pid=$(worker example)
limits '"cpu_weight": 200'
check "another cpu_weight is in force without a reload" soon limit example/cpu.weight 200
sed -i 's/"cpu_weight": 200/"cpu_weight": 50/' /etc/sq/tenants.json
check "a reload with another fails no request" load systemctl reload sqedge
check "and is in force" soon limit example/cpu.weight 50
check "in the same process" is "$(worker example)" "$pid"
limits '"memory_mb": 32'
check "another memory_mb is in force, too" soon serves_within $((832 << 20))
check "in another process" no is "$(worker example)" "$pid"

head -c 3M /dev/zero | tr '\0' x >/tmp/large
check "a large document is put" as example -fT /tmp/large $site/api/v2/documents/large
burn
# Its weight counts: of two, one of 300 may take all there is.
check "a worker that works without a pause yields, and that is said" soon yields
check "the other does not" limit calm/cpu.idle 0
check "and is served" gets calm
rest
check "after a rest it no longer yields" soon limit example/cpu.idle 0
check "and has its weight again" soon limit example/cpu.weight 50

check "a restart fails no request" load systemctl restart sqedge
check "a roll fails no request" load as admin -f -X POST $site/api/v2/admin/workers/roll

get calm >/dev/null
before="$(edge) $(worker calm)"
echo 1M >$group/tenants/example/memory.max
check "a worker without memory is ended, and that is said" soon ends
check "and counted" metric 'sq_worker_exits_total{reason="oom"}' 1
check "the tenant is served again" soon gets example
check "by a worker with its memory" limit example/memory.max $((832 << 20))
check "edge and other worker are what they were" is "$(edge) $(worker calm)" "$before"

pids=$(cat $group/*/cgroup.procs $group/tenants/*/cgroup.procs) && kill -9 "$(edge)"
check "a killed edge leaves no worker" soon gone "$pids"
check "and comes back" soon gets example

install -D deploy/worker-uids.conf /etc/systemd/system/sqedge.service.d/worker-uids.conf
sed -i 's/# worker_uids/worker_uids/' /etc/sq/Caddyfile
systemctl daemon-reload
check "a restart with worker_uids fails no request" load systemctl restart sqedge
check "the worker has a user of its own" own_user example
check "and its limits" limit example/memory.max $((832 << 20))

systemctl stop sqedge.socket
check "a stop of the sockets leaves no group" no test -e $group
((failed)) || echo "all checks passed: $(systemctl --version | head -n 1), Linux $(uname -r)"
