#!/usr/bin/env bash
# Boots a virtual machine of Debian 12 and runs vm-checks.sh in it, which installs
# sqedge there and checks what takes a systemd and a cgroup v2 of one's own. As root
# on amd64, after ./xcaddy.sh build; some minutes. Exits with 0 if all checks passed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for program in mmdebstrap qemu-system-x86_64 mke2fs; do
	command -v $program >/dev/null || { echo "vm.sh: $program is missing: apt-get install mmdebstrap qemu-system-x86 e2fsprogs" >&2; exit 1; }
done
((EUID == 0)) || { echo "vm.sh: only root can make the machine's disk" >&2; exit 1; }

dir=$(mktemp -d)
# Should mmdebstrap be killed, /proc and /dev of this machine may still be mounted there.
trap 'rm -rf --one-file-system "$dir"' EXIT
chmod 755 "$dir" # apt gives up its rights to fetch packages
root=$dir/root

# The kernel is that of the backports, since 6.1 has not all of Landlock. In mode
# unshare what is mounted goes with mmdebstrap, however that ends.
debian="deb http://deb.debian.org/debian bookworm"
mmdebstrap --quiet --mode=unshare --variant=apt \
	--include=systemd-sysv,dbus,udev,initramfs-tools,curl,ca-certificates,linux-image-cloud-amd64/bookworm-backports \
	bookworm "$root" "$debian main" "$debian-backports main"
install -D -t "$root/sqedge/bin" bin/caddy bin/sq-worker
cp -r Caddyfile deploy "$root/sqedge/"
install -D -m 0644 /dev/stdin "$root/etc/systemd/system/checks.service" <<'END'
[Service]
ExecStart=/sqedge/deploy/vm-checks.sh
ExecStopPost=systemctl --force poweroff
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/ttyS1
END
mke2fs -q -t ext4 -d "$root" "$dir/disk" 3G

# boot ACCEL CPU: what the checks print goes to stdout.
boot() {
	timeout 1200 qemu-system-x86_64 -accel "$1" -cpu "$2" -smp 2 -m 2048 -nic none -no-reboot \
		-kernel "$root/vmlinuz" -initrd "$root/initrd.img" -append "root=/dev/vda rw console=ttyS0 quiet panic=-1 systemd.wants=checks.service" \
		-drive "file=$dir/disk,format=raw,if=virtio,snapshot=on" \
		-display none -monitor none -serial "file:$dir/console" -serial stdio </dev/null 2>"$dir/qemu" | sed -u 's/\r$//' | tee "$dir/said"
}
# A /dev/kvm that is there may be of no use, as in some virtual machines. Emulated,
# cmpxchg16b brings Linux 6.12 down.
boot kvm host 2>/dev/null || boot tcg Nehalem,-cx16 || { tail "$dir/qemu" "$dir/console" >&2; exit 1; }
grep -q '^all checks passed' "$dir/said"
