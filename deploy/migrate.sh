#!/usr/bin/env bash
# migrate.sh makes a folder of .phext files, as a single-tenant server keeps it,
# the data directory of a tenant. See usage below and README.md.
#
# It needs bash, GNU coreutils, findutils and util-linux, and our caddy binary
# for the entry in tenants.json.

set -euo pipefail
export LC_ALL=C # names are bytes: the same order and the same verdict everywhere
umask 077
shopt -s dotglob nullglob

usage() {
	cat <<'TEXT'
Usage: migrate.sh --from DIR --id TENANT [--quota-mb N] [--root DIR] [--config FILE] [--apply]

Copies the .phext files of one folder into the data directory of a new tenant,
verifies the copy, adds the tenant to tenants.json and prints its key, once, and
the command that undoes it all. The folder is never modified. Without --apply it
only says what it would do.

  --from DIR      folder with the .phext files; stop the server that writes them
  --id TENANT     new tenant: a-z, 0-9 and -, not first a -, at most 63 characters
  --quota-mb N    quota of the tenant in MiB, 0 for none (default 1000)
  --root DIR      where tenants live (default /var/lib/sq/tenants)
  --config FILE   tenants file (default /etc/sq/tenants.json)
  --apply         do it

The caddy binary is $CADDY, else the one beside this script, else the one in PATH.
Exit status: 0 done, 1 refused or failed and nothing changed, 2 wrong usage,
129, 130 or 143 stopped by a signal and nothing changed.
TEXT
}

die() {
	printf 'migrate: %s\n' "$*" >&2
	exit 1
}

wrong_usage() {
	printf 'migrate: %s\nTry: migrate.sh --help\n' "$*" >&2
	exit 2
}

# utf8 and control match bytes, since LC_ALL is C.
utf8=$'^([\x01-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf][\x80-\xbf]|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf][\x80-\xbf]|[\xf1-\xf3][\x80-\xbf][\x80-\xbf][\x80-\xbf]|\xf4[\x80-\x8f][\x80-\xbf][\x80-\xbf])*$'
control=$'[\x01-\x1f\x7f]|\xc2[\x80-\x9f]'

# check_name sets reason to why the server would refuse a document of this name,
# or to nothing. The rules are those of CheckDocument in shared/wire.
check_name() {
	local name=$1
	reason=
	if ((${#name} > 200)); then
		reason="name has ${#name} bytes: at most 200 are allowed"
	elif [[ ! $name =~ $utf8 ]]; then
		reason="name is not valid UTF-8"
	elif [[ $name == .* ]]; then
		reason="name begins with a dot"
	elif [[ $name == *..* ]]; then
		reason="name holds two dots in a row"
	elif [[ $name == *\\* ]]; then
		reason="name holds a backslash"
	elif [[ $name =~ $control ]]; then
		reason="name holds a control character"
	fi
}

# survey fills names with the files to migrate, left with what stays behind, and
# problems.
survey() {
	local path name reason
	names=() left=() problems=()
	for path in "$from"/*; do
		name=${path##*/}
		reason=
		if [[ -L $path ]]; then
			reason="symbolic link"
		elif [[ -d $path ]]; then
			left+=("$(printf '%q' "$name") (folder)")
			continue
		elif [[ $name != *.phext ]]; then
			left+=("$(printf '%q' "$name")")
			continue
		elif [[ ! -f $path ]]; then
			reason="not a regular file"
		elif [[ ! -r $path ]]; then
			reason="not readable"
		elif [[ $name != .phext ]]; then
			check_name "${name%.phext}"
		elif [[ -e $from/default.phext || -L $from/default.phext ]]; then
			reason="would become default.phext, which exists too"
		fi
		if [[ -n $reason ]]; then
			problems+=("$(printf '%q' "$name"): $reason")
		else
			names+=("$name")
		fi
	done
}

# each DIR COMMAND... runs the command in DIR on all names, in their order.
each() {
	local dir=$1
	shift
	(cd -- "$dir" && printf '%s\0' "${names[@]}" | xargs -0 "$@" --)
}

# checksums DIR prints the SHA-256 of each of names there, one a line.
checksums() {
	each "$1" sha256sum --zero | cut -z -c1-64 | tr '\0' '\n'
}

# find_caddy sets caddy to a binary that has our commands.
find_caddy() {
	local beside
	beside=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/caddy
	if [[ -n ${CADDY:-} ]]; then
		caddy=$CADDY
	elif [[ -x $beside ]]; then
		caddy=$beside
	else
		caddy=$(command -v caddy) || die "no caddy binary: build it with ./xcaddy.sh build and name it in CADDY"
	fi
	caddy=$(realpath -s -- "$(command -v -- "$caddy")") || die "no caddy binary at ${CADDY@Q}"
	"$caddy" sq-tenant-add --help >/dev/null 2>&1 ||
		die "$caddy has no command sq-tenant-add: name the binary that ./xcaddy.sh build makes in CADDY"
}

# preflight refuses what could not succeed, and sets target and tmp.
preflight() {
	[[ -d $from ]] || die "--from $from is not a folder"
	[[ -r $from && -x $from ]] || die "--from $from cannot be read"
	[[ -d $root ]] || die "--root $root is not a folder: install the tmpfiles.d entry, or create it for the user who runs the edge"
	[[ -f $config ]] || die "--config $config does not exist: begin with tenants.json.example"
	from=$(realpath -e -- "$from")
	root=$(realpath -e -- "$root")
	config=$(realpath -s -- "$config") # a link stays a link: whoever made it replaces it
	target=$root/$id
	tmp=$root/.migrate-$id.tmp
	[[ -w $root && -x $root ]] || die "--root $root cannot be written: run as root, or as the user who runs the edge"
	if [[ -e $target || -L $target ]]; then
		die "$target exists: choose another id. If a run was killed before it wrote the entry in $config, move it away: mv -T $(printf "%q %q" "$target" "$root/.interrupted-$id")"
	fi
	# The newest writes of a tenant are in its log, not yet in its files.
	[[ ! -e $from/.sq ]] || die "$from has a .sq folder: it is a tenant's data directory already, and its files alone are not all of its data"
	find_caddy
}

show_plan() {
	local i note
	printf 'Tenant    %s, quota %s MiB, entry in %s\n' "$id" "$quota" "$config"
	printf 'From      %s\n' "$from"
	printf 'To        %s\n' "$target"
	printf 'Files     %s, %s bytes\n' "${#names[@]}" "$bytes"
	for i in "${!names[@]}"; do
		note=
		if [[ ${names[i]} == .phext ]]; then note=", as default.phext"; fi
		printf '  %s, %s bytes%s\n' "${names[i]}" "${sizes[i]}" "$note"
	done
	if ((${#left[@]})); then
		printf 'Not migrated:\n'
		printf '  %s\n' "${left[@]}"
	fi
}

# undo leaves root as it was before this run. It runs at every exit until the
# entry is written.
undo() {
	local status=$?
	trap - EXIT
	if ((status < 128)); then status=1; fi # xargs has others
	if [[ -n $switched ]]; then mv -T -- "$target" "$tmp"; fi
	rm -rf -- "$tmp"
	printf 'migrate: the copy was taken away again; %s is untouched\n' "$from" >&2
	exit "$status"
}

copy_verified() {
	local before listed="${names[*]@Q}"
	rm -rf -- "$tmp" # of a run that was killed
	mkdir -- "$tmp"
	before=$(checksums "$from")
	each "$from" cp --no-dereference --preserve=timestamps -t "$tmp"
	[[ -z $(find "$tmp" -mindepth 1 ! -type f -print -quit) ]] ||
		die "a file of $from became something else during the copy: stop what changes it, and run again"
	[[ $(checksums "$tmp") == "$before" ]] ||
		die "the copy differs from $from: stop the server that writes there, check the disk, and run again"
	survey
	[[ ${#problems[@]} == 0 && ${names[*]@Q} == "$listed" && $(checksums "$from") == "$before" ]] ||
		die "$from changed during the copy: stop the server that writes there, and run again"

	if [[ -e $tmp/.phext ]]; then mv -nT -- "$tmp/.phext" "$tmp/default.phext"; fi
	chmod 0700 -- "$tmp"
	find "$tmp" -type f -exec chmod 0600 -- {} +
	if ((EUID == 0)); then chown -hR --reference="$root" -- "$tmp"; fi
	find "$tmp" -exec sync -- {} + # each file, and the folder
}

apply() {
	local lock
	exec {lock}<"$root"
	flock --wait 10 "$lock" || die "another migration into $root is running: wait until it has ended"
	switched=
	trap undo EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	copy_verified

	# From here to the end it is all or nothing: no signal may come between the
	# folder and its entry.
	trap '' HUP INT TERM
	mv -nT -- "$tmp" "$target"
	[[ ! -e $tmp ]] || die "$target appeared during the copy: choose another id"
	switched=yes
	sync -- "$root"
	printf '\nCopied and verified. The new tenant and its key, which is shown only now:\n'
	"$caddy" sq-tenant-add --config "$config" --id "$id" --data-dir "$target" --quota-mb "$quota" ||
		die "the tenant was not added to $config: see above"
	trap - EXIT

	printf '\nTo roll back (%s is as it was; what the tenant wrote since stays in the folder moved away):\n' "$from"
	printf ' %q' "$caddy" sq-tenant-remove --config "$config" --id "$id"
	printf ' &&'
	printf ' %q' mv -T -- "$target" "$root/.rolled-back-$id"
	printf '\n'
}

from='' id='' quota=1000 root=/var/lib/sq/tenants config=/etc/sq/tenants.json apply=
while (($#)); do
	case $1 in
	--from | --id | --quota-mb | --root | --config)
		(($# > 1)) || wrong_usage "$1 needs a value"
		case $1 in
		--from) from=$2 ;;
		--id) id=$2 ;;
		--quota-mb) quota=$2 ;;
		--root) root=$2 ;;
		--config) config=$2 ;;
		esac
		shift 2
		;;
	--apply) apply=yes && shift ;;
	--help | -h) usage && exit 0 ;;
	*) wrong_usage "unknown argument $1" ;;
	esac
done
[[ -n $from ]] || wrong_usage "--from is missing"
[[ -n $id ]] || wrong_usage "--id is missing"
[[ $id =~ ^[a-z0-9][a-z0-9-]{0,62}$ ]] || wrong_usage "--id $(printf '%q' "$id") is no tenant id: a-z, 0-9 and -, not first a -, at most 63 characters"
if [[ ! $quota =~ ^(0|[1-9][0-9]{0,6})$ ]] || ((quota > 1048576)); then
	wrong_usage "--quota-mb $(printf '%q' "$quota") is not a whole number from 0 (no quota) to 1048576"
fi

preflight
survey
if ((${#problems[@]})); then
	printf '  %s\n' "${problems[@]}" >&2
	die "these files of $from cannot be migrated as they are: rename or replace them, and run again"
fi
((${#names[@]})) || die "$from has no .phext files"
mapfile -t sizes < <(each "$from" stat -c %s)
bytes=0
for size in "${sizes[@]}"; do bytes=$((bytes + size)); done
((quota == 0 || bytes <= quota << 20)) || die "the files have $bytes bytes, more than --quota-mb $quota: the tenant could read but not write"
show_plan
if [[ -z $apply ]]; then
	printf '\nDry run: nothing was changed. Run again with --apply to do it.\n'
	exit 0
fi
apply
