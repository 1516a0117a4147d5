#!/bin/bash
# The second boot stage: runs /host/run with its output on the virtual console, then tells its exit status twice, as a
# line at the end of the output and through the emulator's exit device, and ends the machine.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 CAIRN_GUEST=1
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
mkdir -p /run/lock /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
stty -F /dev/hvc0 raw -echo
exec >/dev/hvc0 2>&1 </dev/null
ip link set lo up
hostname guest
# Without udev no node of device-mapper and no link to a zvol appears, and zpool waits for its partitions in vain.
/usr/lib/systemd/systemd-udevd --daemon 2>/dev/null
udevadm trigger --action=add --subsystem-match=block
udevadm settle
cd /host && bash ./run
rc=$?
printf '\n@@EXIT %d %s\n' $rc "$(cut -d' ' -f1 /proc/uptime)"
sync
printf "\\x$(printf %02x $((rc > 127 ? 127 : rc)))" | dd of=/dev/port bs=1 seek=244 conv=notrunc status=none
echo o >/proc/sysrq-trigger
sleep 60
