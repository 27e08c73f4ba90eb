# Enters the testbed. Run as
#
#   unshare --mount --pid --net --ipc --fork --kill-child --propagation private \
#       bash enter.sh ROOT DIRECTORY BIND... -- COMMAND...
#
# DIRECTORY is the working directory inside; each BIND is an absolute path that is to be seen read-write at the same
# place inside. pivot_root rather than chroot because criu insists that / is a mount point. The pid namespace sees to
# it that nothing outlives the run, and that no stranger takes the pid of a process which is about to be restored.
set -eu

root=$1 directory=$2
shift 2

mount --bind "$root" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp

while [ "$1" != -- ]; do
    mkdir -p ".$1"
    mount --rbind "$1" ".$1"
    shift
done
shift

mkdir run/outside
pivot_root . run/outside
umount --lazy /run/outside
rmdir /run/outside

# Nothing that is opened outside may leak into processes that are to be checkpointed.
for descriptor in /proc/self/fd/*; do
    descriptor=${descriptor##*/}
    if [ "$descriptor" -gt 2 ]; then
        eval "exec $descriptor>&-"
    fi
done

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8
unset TMPDIR LANGUAGE

ip link set lo up

cd "$directory"
# Not the last command, or bash would exec it: as the namespace's first process this shell has to reap orphans.
status=0
"$@" || status=$?
exit "$status"
