# Becomes a systemd that runs the unit of Fairway and nothing else. It runs as the first process of
# namespaces of its own (mounts, processes, names of the host, IPC, cgroups) and in the network namespace
# that it was started in. Nothing that it writes is seen outside but what is in $FOLDER.
set -eu
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys

# What the unit needs is taken along before /tmp and /run are others.
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/out /mnt/etc /mnt/dev/pts /mnt/dev/shm /mnt/dev/mqueue /mnt/dev/hugepages
touch /mnt/fairway
mount --bind "$FOLDER" /mnt/out
mount --bind "$FAIRWAY" /mnt/fairway
cp -a /etc/. /mnt/etc/
for name in null zero full random urandom tty; do
    touch /mnt/dev/$name
    mount --bind /dev/$name /mnt/dev/$name
done
# As udev makes it.
mkdir /mnt/dev/net
mknod -m 666 /mnt/dev/net/tun c 10 200
ln -s /proc/self/fd /mnt/dev/fd
ln -s pts/ptmx /mnt/dev/ptmx
# What systemd says goes to a file.
touch /mnt/out/systemd.log /mnt/dev/kmsg
mount --bind /mnt/out/systemd.log /mnt/dev/kmsg
mount --rbind /mnt/dev /dev
mount --bind /mnt/etc /etc
rm -rf /etc/systemd/system
mkdir -p /etc/fairway/manifests /etc/systemd/system
mount --bind /mnt/out/manifests /etc/fairway/manifests
install -m 600 /mnt/out/key /etc/fairway/key
echo cp-1 > /etc/hostname
mount -t tmpfs tmpfs /usr/local/bin
# A file of its own, for another one to take its place.
cp /mnt/fairway /usr/local/bin/fairway
for folder in /run /tmp /var/tmp /var/lib /root /home; do
    mount -t tmpfs tmpfs $folder
done
chmod 1777 /tmp /var/tmp

# No unit of the machine's, and no generator.
for folder in /usr/lib/systemd/system /usr/lib/systemd/system-generators /usr/lib/systemd/system-preset; do
    [ -d $folder ] && mount -t tmpfs tmpfs $folder
done
mkdir -p /run/systemd/system/fairway.service.d
cd /run/systemd/system
for target in sysinit basic shutdown network-online umount; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' $target > $target.target
done
cp /mnt/out/fairway.service .
cp -r /mnt/out/drop-ins/. fairway.service.d/
# There is no journal here, and no time to wait for a watchdog of half a minute.
printf '[Service]\nStandardOutput=append:/mnt/out/log\nStandardError=append:/mnt/out/log\n' \
    > fairway.service.d/test.conf
[ "${WATCHDOG:-}" ] && printf 'WatchdogSec=%s\n' "$WATCHDOG" >> fairway.service.d/test.conf
printf '[Unit]\nDefaultDependencies=no\nWants=fairway.service\n' > test.target
# As on a machine, where systemd does it itself: credentials are mounted by a process that hands its mounts on.
mount --make-rshared /

export container=fairway-test
exec /lib/systemd/systemd --system --unit=test.target --log-target=kmsg --show-status=no
