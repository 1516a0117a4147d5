#!/bin/busybox sh
# The first boot stage, from memory: lays a writable layer over the shared, read-only root, mounts the folder shared
# with the host, and hands over to /start in the root.
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /lower /layer /new
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
for m in $($bb cat /modules); do $bb insmod /$m || echo "init: $m does not load"; done
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do $bb sleep 0.05; n=$((n + 1)); done
$bb mount -t ext4 -o ro /dev/vda /lower &&
	$bb mount -t tmpfs -o mode=755 layer /layer && $bb mkdir /layer/up /layer/work &&
	$bb mount -t overlay -o lowerdir=/lower,upperdir=/layer/up,workdir=/layer/work root /new &&
	$bb mkdir -p /new/host &&
	$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=mmap host /new/host &&
	$bb mount --move /proc /new/proc && $bb mount --move /sys /new/sys && $bb mount --move /dev /new/dev &&
	exec $bb switch_root /new /start
echo "init: no root to boot from"
echo o >/proc/sysrq-trigger
