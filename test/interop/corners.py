# What a careful client never sends, sent through libnbd with its own checks off.
# Arguments: socket, export, size, "writable" or "read-only".
import errno
import sys

import nbd

sock, export, size, mode = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
writable = mode == "writable"


def connect(structured=True, contexts=()):
    h = nbd.NBD()
    h.set_export_name(export)
    h.set_request_structured_replies(structured)
    for c in contexts:
        h.add_meta_context(c)
    h.set_strict_mode(0)
    h.connect_unix(sock)
    return h


def refused(what, number, call):
    try:
        call()
    except nbd.Error as e:
        if e.errnum != number:
            sys.exit("%s: answered %s, expected %s" % (what, e, errno.errorcode[number]))
    else:
        sys.exit("%s: was accepted" % what)


for structured in (True, False):
    h = connect(structured)
    assert h.get_size() == size
    assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
    tail = size - 512

    # reads: any alignment, but inside, and not too long
    whole = h.pread(8192, 0)
    assert h.pread(1, 4095) == whole[4095:4096]
    assert h.pread(1000, 3333) == whole[3333:4333]
    assert len(h.pread(512, tail)) == 512
    refused("read past the end", errno.EINVAL, lambda: h.pread(513, tail))
    refused("read far out", errno.EINVAL, lambda: h.pread(512, 1 << 62))
    refused("read of nothing", errno.EINVAL, lambda: h.pread(0, 0))
    refused("oversize read", errno.EINVAL, lambda: h.pread((32 << 20) + 512, 0))
    if size >= 32 << 20:
        assert len(h.pread(32 << 20, 0)) == 32 << 20

    # DF: one chunk, or refused where it was not negotiated
    if structured:
        chunks = []
        h.pread_structured(1 << 20, 0, lambda b, o, s, e: chunks.append((o, len(b))), nbd.CMD_FLAG_DF)
        assert chunks == [(0, 1 << 20)], chunks
    else:
        refused("DF without structured replies", errno.EINVAL,
                lambda: h.pread_structured(512, 0, lambda *a: 0, nbd.CMD_FLAG_DF))
    refused("caching nothing", errno.EINVAL, lambda: h.cache(0, 0))
    h.cache(1 << 20, 0)

    if writable:
        sector = h.get_block_size(nbd.SIZE_MINIMUM)
        before = h.pread(8192, 0)
        if sector > 1:
            refused("unaligned write", errno.EINVAL, lambda: h.pwrite(b"x" * sector, 1))
            refused("write of half a sector", errno.EINVAL, lambda: h.pwrite(b"x" * (sector // 2), 0))
            refused("unaligned zeroes", errno.EINVAL, lambda: h.zero(sector, 1))
            refused("unaligned trim", errno.EINVAL, lambda: h.trim(sector, 1))
        refused("write past the end", errno.ENOSPC, lambda: h.pwrite(b"x" * 1024, tail))
        refused("zeroes past the end", errno.ENOSPC, lambda: h.zero(1 << 30, tail))
        refused("trim past the end", errno.EINVAL, lambda: h.trim(1 << 30, tail))
        refused("DF on a write", errno.EINVAL, lambda: h.pwrite(b"x" * 4096, 0, nbd.CMD_FLAG_DF))
        refused("oversize write", errno.EINVAL, lambda: h.pwrite(bytes((32 << 20) + 512), 0))
        assert h.pread(8192, 0) == before
        saved = h.pread(512, tail)
        h.pwrite(b"\xee" * 512, tail, nbd.CMD_FLAG_FUA)
        assert h.pread(512, tail) == b"\xee" * 512
        h.zero(512, tail, nbd.CMD_FLAG_NO_HOLE)
        assert h.pread(512, tail) == bytes(512)
        h.pwrite(saved, tail)
        h.trim(4096, 4096, nbd.CMD_FLAG_FUA)
        h.flush()
    else:
        refused("write", errno.EPERM, lambda: h.pwrite(b"x" * 4096, 0))
        refused("zeroes", errno.EPERM, lambda: h.zero(4096, 0))
        refused("trim", errno.EPERM, lambda: h.trim(4096, 0))
    h.shutdown()

# a whole status in one answer, and one descriptor at a time
h = connect(True, ["base:allocation", "no:such"])
assert h.can_meta_context("base:allocation") and not h.can_meta_context("no:such")
seen = []
h.block_status(min(size, 1 << 30), 0, lambda c, o, e, err: seen.append(e))
assert seen and sum(seen[0][0::2]) <= size
one = []
h.block_status(min(size, 1 << 30), 0, lambda c, o, e, err: one.append(e), nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 1 and len(one[0]) == 2, one
refused("status past the end", errno.EINVAL, lambda: h.block_status(512, size, lambda *a: 0))
h.shutdown()

# gone in the middle of requests, again and again, beside a connection that stays
stays = connect()
for n in range(20):
    h = connect()
    for i in range(8):
        h.aio_pread(nbd.Buffer(64 << 10), 0)
        if writable:
            h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(stays.pread(65536, 65536))), 65536)
    del h
assert len(stays.pread(4096, 0)) == 4096

# names: the longest, one too long for the server's own names, none
for name in ("x" * 4096, "x" * 300, "", "../" + export, export + "@nope"):
    h = nbd.NBD()
    h.set_export_name(name)
    h.set_opt_mode(True)
    h.connect_unix(sock)
    try:
        h.opt_go()
    except nbd.Error:
        pass
    else:
        sys.exit("an export named %r was opened" % name[:20])
    h.set_export_name(export)
    h.opt_go()
    assert h.get_size() == size
    h.shutdown()

# options in any order, and twice
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_unix(sock)
names = []
h.opt_list(lambda n, d: names.append(n))
assert export in names, names
h.set_export_name(export)
h.opt_info()
h.opt_info()
found = []
h.add_meta_context("base:")
h.opt_list_meta_context(lambda n: found.append(n))
assert found == ["base:allocation"], found
h.opt_abort()
print("all as expected")
