#!/usr/bin/env bash
# Builds, runs and tests sqedge. Needs Go and, for run, curl; see "need" below
# for the little that test and lint want beyond.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# need PROGRAM PACKAGE: say how to get a program that is missing.
need() {
	command -v "$1" >/dev/null && return
	echo "xcaddy.sh: $1 is missing: apt-get install $2" >&2
	exit 1
}

# Every go command below shares these, and so one build cache: static binaries
# without the paths of this machine, and Caddy's own tags that leave out databases
# nobody here uses.
need go golang
GOFLAGS="$(go env GOFLAGS) -trimpath -tags=nobadger,nomysql,nopgx"
export CGO_ENABLED=0 GOFLAGS

usage() {
	cat <<'EOF'
usage: ./xcaddy.sh COMMAND

  build   bin/caddy (Caddy with the sq modules) and bin/sq-worker
  run     build, then serve https://localhost:8443 from .run/, which the first
          run creates with an admin key and a demo tenant
  test    build, then run every test: unit, golden, conformance, end to end,
          crash, all with the race detector
  bench   build, then measure the paths of a request and print one table;
          bench fairness: what a hot tenant costs the others;
          bench density: what tenants cost that sleep, and that are awake
  lint    gofmt, go vet (linux and darwin), staticcheck
  clean   remove bin/; .run/ and the data in it stay

run honours SQ_SITE (default localhost:8443), SQ_BIND (default 127.0.0.1) and
SQ_RUN (default .run).
EOF
}

build() {
	mkdir -p bin
	# xcaddy makes a main module of its own, which does not see our go.sum, so
	# it is told the Caddy version that go.mod pins.
	local caddy
	caddy=$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)
	# Nor may go look for our module anywhere but here.
	GONOPROXY=github.com/sqedge GOVCS=github.com/sqedge:off \
		XCADDY_GO_BUILD_FLAGS=-ldflags=-s \
		go tool xcaddy build "$caddy" \
		--with github.com/sqedge/sqedge/caddymodule \
		--replace "github.com/sqedge/sqedge=$PWD" \
		--output bin/caddy >bin/build.log 2>&1 || { cat bin/build.log >&2; exit 1; }
	go build -ldflags=-s -o bin/sq-worker ./worker
}

# fresh says whether both binaries are newer than all they are made of.
fresh() {
	[[ -x bin/caddy && -x bin/sq-worker ]] || return 1
	[[ -z $(find caddymodule worker shared go.mod go.sum xcaddy.sh -type f -newer bin/sq-worker \
		! -name '*_test.go' ! -path '*/testdata/*' -print -quit) ]]
}

key() { echo "$1$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"; }

run() {
	need curl curl
	fresh || { echo "building (minutes the first time, seconds after that) ..."; build; }

	umask 077
	local dir=${SQ_RUN:-.run} first=
	mkdir -p "$dir/tenants"
	chmod 700 "$dir"
	dir=$(cd "$dir" && pwd)
	if [[ ! -e $dir/tenants.json ]]; then
		first=yes
		mkdir -p "$dir/tenants/demo"
		cat >"$dir/tenants.json" <<EOF
{
  "admin_key": "$(key pmb-admin-)",
  "tenants": [
    {"id": "demo", "api_key": "$(key pmb-v1-)", "data_dir": "$dir/tenants/demo", "quota_mb": 1000, "enabled": true}
  ]
}
EOF
	fi

	# A unix socket's path has at most 107 bytes, and a tenant's id up to 63.
	local sockets=$dir/sock
	if ((${#sockets} > 36)); then
		sockets=${TMPDIR:-/tmp}/sq-$(id -u)-$(echo "$dir" | cksum | cut -d' ' -f1)
	fi
	mkdir -p -m 700 "$sockets"

	export SQ_SITE=${SQ_SITE:-localhost:8443} SQ_BIND=${SQ_BIND-127.0.0.1}
	export SQ_CONFIG=$dir/tenants.json SQ_DATA_ROOT=$dir/tenants SQ_RUN_DIR=$sockets
	export SQ_WORKER=$PWD/bin/sq-worker SQ_CADDY_ADMIN=unix/$sockets/.caddy
	export XDG_DATA_HOME=$dir/caddy XDG_CONFIG_HOME=$dir/caddy

	local log=$dir/edge.log
	bin/caddy run --config Caddyfile >>"$log" 2>&1 &
	local caddy=$!
	trap 'kill -TERM $caddy 2>/dev/null' INT TERM

	local base=$SQ_SITE
	[[ $base == *://* ]] || base=https://$base
	local ca=$XDG_DATA_HOME/caddy/pki/authorities/local/root.crt
	local -a curl=(curl)
	[[ $base != https://* ]] || curl+=(--cacert "$ca")
	for _ in $(seq 100); do
		if ! kill -0 $caddy 2>/dev/null; then
			echo "the edge did not start; the end of $log:" >&2
			tail -n 5 "$log" >&2
			exit 1
		fi
		"${curl[@]}" -fs "$base/healthz" >/dev/null 2>&1 && break
		sleep 0.1
	done

	local admin tenant shown
	admin=$(grep -o 'pmb-admin-[0-9a-f]*' "$SQ_CONFIG" | head -n 1)
	tenant=$(grep -o 'pmb-v1-[0-9a-f]*' "$SQ_CONFIG" | head -n 1)
	printf -v shown '%q ' "${curl[@]}"
	echo "sqedge serves $base"
	echo "  keys: $SQ_CONFIG   data: $SQ_DATA_ROOT"
	echo "  log: $log   workers' sockets: $SQ_RUN_DIR"
	if [[ $first ]]; then
		cat <<EOF

The keys, shown this once:
  admin key:              $admin
  key of the tenant demo: $tenant

Paste these into another terminal:

  $shown-H "Authorization: Bearer $tenant" --data-binary 'Hello, phext' "$base/api/v2/insert?p=notes&c=1.1.1/1.1.1/1.1.1"
  $shown-H "Authorization: Bearer $tenant" "$base/api/v2/select?p=notes&c=1.1.1/1.1.1/1.1.1"
  $shown-H "Authorization: Bearer $tenant" "$base/api/v2/toc?p=notes"
  $shown-H "Authorization: Bearer $admin" -d '{"tenant_id": "acme", "quota_mb": 500}' $base/api/v2/admin/tenants/add
  $shown-H "Authorization: Bearer $admin" $base/api/v2/admin/tenants/demo/stats
  $shown-H "Authorization: Bearer $admin" $base/api/v2/metrics
EOF
	fi
	echo
	echo "Ctrl-C ends it."
	# The first wait ends early where a signal came; the second sees it out.
	wait $caddy || wait $caddy
}

test_all() {
	need gcc gcc # the race detector is linked with it
	# go test says nothing of what it skips where all passes.
	command -v shellcheck >/dev/null || echo "skipped: shellcheck of deploy/, which is not installed: apt-get install shellcheck"
	command -v systemd-analyze >/dev/null || echo "skipped: the checks of the systemd unit, for want of systemd: apt-get install systemd"
	command -v mkfs.ext4 >/dev/null || echo "skipped: power cuts of the engine, for want of mkfs.ext4: apt-get install e2fsprogs"
	((EUID == 0)) || echo "skipped: tests that give files to other users or mount disks to cut their power, which only root can do"
	build
	CGO_ENABLED=1 go build -race ./...
	# One package after the other: they kill, stop and time out real processes, and
	# two at once on a small machine would starve each other. Tests that mostly wait
	# do so together.
	CGO_ENABLED=1 go test -race -p 1 -parallel 4 -timeout 30m "$@" ./...
}

lint() {
	local bad
	bad=$(gofmt -l caddymodule worker shared deploy)
	if [[ $bad ]]; then
		echo "gofmt would change:" >&2
		echo "$bad" >&2
		exit 1
	fi
	go vet ./...
	GOOS=darwin go vet ./...
	go tool staticcheck ./...
}

command=${1:-}
shift || true
case $command in
build) build ;;
run) run ;;
test) test_all "$@" ;;
bench) build; go run ./deploy/bench "$@" ;;
lint) lint ;;
clean) rm -rf bin ;;
*) usage; [[ $command == help || $command == -h || $command == --help ]] || exit 2 ;;
esac
