#!/bin/bash
# box.sh BASE [--bind-ro=SRC:DST..]: boot a real systemd on a throw-away overlay of the root file system BASE, print the
# pid of its first process, and keep it until standard input ends. Needs root, systemd-nspawn, and control groups.
set -euo pipefail
base=$(readlink -f "$1")
shift
name=ingestdbox$$ work=$(mktemp -d -t ingestdbox.XXXXXX) cg=/sys/fs/cgroup nspawn= leader=
controllers="memory pids cpu devices"
own() { awk -F: -v c="$1" '(c=="unified"&&$1=="0")||(c=="systemd"&&$2=="name=systemd")||$2==c{print $3}' /proc/self/cgroup; }
groups=
if [ -d $cg/systemd ]; then
  for h in systemd unified $controllers; do [ -d $cg/$h ] && p=$(own $h) && groups+=" $cg/$h${p%/}/$name"; done
fi
cleanup() {
  set +e
  [ -n "$leader" ] && kill -KILL "$leader" 2>/dev/null  # first process of its pid namespace: the kernel kills the rest
  if [ -n "$nspawn" ]; then
    for _ in $(seq 100); do kill -0 $nspawn 2>/dev/null || break; sleep .05; done
    kill -KILL $nspawn 2>/dev/null
    wait $nspawn 2>/dev/null
  fi
  if [ -n "$groups" ]; then
    for _ in $(seq 40); do
      find $groups -depth -type d -exec rmdir {} + 2>/dev/null
      ls -d $groups >/dev/null 2>&1 || break
      sleep .05
    done
  fi
  mountpoint -q $work/t/root && umount -l $work/t/root
  mountpoint -q $work/t && umount -l $work/t
  rm -rf --one-file-system $work
}
trap cleanup EXIT
trap 'exit 143' TERM INT
mkdir $work/t
# What is written in the box is in memory, or on the disk of $TMPDIR where there is much of it.
[ -n "${INGESTD_BOX_ON_DISK:-}" ] || mount -t tmpfs -o size=3g,mode=755 ingestdbox $work/t
mkdir $work/t/{up,work,root}
root=$work/t/root
mount -t overlay overlay -o lowerdir=$base,upperdir=$work/t/up,workdir=$work/t/work $root
rm -f $root/usr/sbin/policy-rc.d
: > $root/etc/machine-id
printf '127.0.0.1 localhost\n' > $root/etc/hosts
for unit in getty.target console-getty.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer man-db.timer dpkg-db-backup.timer systemd-timesyncd.service; do
  ln -sf /dev/null $root/etc/systemd/system/$unit
done
bash -c '
  for c in '"$groups"'; do mkdir $c; echo $$ > $c/cgroup.procs; done
  exec systemd-nspawn -q -D "$0" -M '$name' --private-network --register=no --keep-unit --link-journal=no --settings=no \
   --resolv-conf=off --timezone=off --console=pipe --kill-signal=SIGRTMIN+3 --system-call-filter="bpf @keyring landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
   --capability=CAP_BPF,CAP_SYS_RESOURCE,CAP_PERFMON,CAP_SYS_NICE "$@" -- \
   /bin/sh -c "for c in '"$controllers"'; do [ -d /sys/fs/cgroup/\$c ] && mount -o remount,rw,bind /sys/fs/cgroup/\$c; done; exec /lib/systemd/systemd"
' $root "$@" </dev/null >$work/log 2>&1 &
nspawn=$!
for _ in $(seq 400); do
  leader=$(pgrep -P $nspawn | head -1) || true
  [ -n "$leader" ] && nsenter -t $leader -m -p test -S /run/systemd/private 2>/dev/null && break
  kill -0 $nspawn 2>/dev/null || { cat $work/log >&2; exit 125; }
  sleep .05
done
nsenter -t "$leader" -m -u -i -n -p -C -- timeout 60 systemctl is-system-running --wait >&2 || true
echo "$leader"
cat >/dev/null
