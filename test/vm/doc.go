// Package vm runs test programs in a small virtual machine of our own making, for
// what needs a kernel with modules: OpenZFS, the kernel's NBD client, ublk,
// device-mapper, SCSI tape, and power cuts.
//
//	make vm-prepare [KERNEL=backports|stable]   build the machine (root, Debian; minutes, once)
//	make test-vm    [KERNEL=backports|stable]   build what is missing and run the suite
//	make test-vm RUN='^TestZFSPoolFull$'        only these tests of the guest, in one machine
//
// A machine is an [Image] in the cache: a kernel, a first boot stage and a root
// file system that is shared read-only by all that run at once. The command
// test/vm/prepare builds it and says which versions it chose. [Image.Start] boots
// it under QEMU with a script to run; the folder that holds the script is shared
// with the guest as /host, extra disks are /dev/vdb, /dev/vdc and so on, as files
// of the host. A boot takes four seconds, so one boot runs many tests.
//
// # What it promises
//
//   - A machine ends: by itself when its script does, by PowerCut, by its
//     context, and with the process that started it.
//   - The exit status and all output of the script come back. The status is told
//     twice, as a line of output and as the emulator's own; where they differ, or
//     none came, the run failed (ErrNoVerdict): a machine that dies is never a pass.
//   - PowerCut loses what the guest kept in memory only. What it had handed to a
//     disk survives in the host's page cache even without a flush, so an image of
//     what a real disk may forget needs device-mapper in the guest.
//
// # What can go wrong
//
// Without a machine in the cache Find fails with KindNotFound and says what to
// call. The emulator interprets every instruction: time limits have to be an order
// of magnitude above those of a real machine. CAIRN_VM_ACCEL names another
// accelerator (kvm) for people whose machine has one; it is never chosen by
// probing, because an accelerator that opens may still not run this kernel.
//
// Tests that start machines run only with CAIRN_VM=1; CAIRN_VM_KERNEL chooses the
// pair, CAIRN_VM_CACHE the folder of machines, and CAIRN_VM_TESTS a pattern of the
// guest's tests for TestChosen. CAIRN_SCALE reaches the tests that run inside, which
// are those of test/vm/guest, and of test/script and test/matrix what is about ZFS.
package vm
