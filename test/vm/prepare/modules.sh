#!/bin/sh
# In the build root, where the kernel's packages lie in /kernel and OpenZFS's modules in /openzfs: gathers the wanted
# modules and all they need, unpacked and stripped, below /guest; /guest/missing names those the kernel does not have,
# /guest/early lists the files the first boot stage loads, in order.
#   modules.sh RELEASE "WANTED..." "EARLY..."
set -eu
release=$1 wanted=$2 early=$3
tree=/kernel/lib/modules/$release
to=/guest/lib/modules/$release
mkdir -p "$tree/extra" "$to"
cp /openzfs/*.ko "$tree/extra"
# Split kernel packages have these lists in one that the headers bring along.
for list in order builtin builtin.modinfo; do
	[ -e "$tree/modules.$list" ] || cp "/usr/lib/modules/$release/modules.$list" "$tree"
done
depmod -b /kernel "$release"
: >/guest/missing
for name in $wanted $early; do
	modprobe -d /kernel -S "$release" --show-depends "$name" 2>/dev/null || echo "$name" >>/guest/missing
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u >/guest/files
while read -r file; do
	out=$to/${file#"$tree"/}
	mkdir -p "$(dirname "$out")"
	case $file in
	*.xz) xz -dc "$file" >"${out%.xz}"; out=${out%.xz} ;;
	*.zst) zstd -qdc "$file" >"${out%.zst}"; out=${out%.zst} ;;
	*) cp "$file" "$out" ;;
	esac
	strip --strip-debug "$out"
done </guest/files
cp "$tree"/modules.builtin* "$to"
sed 's/\.ko\.[a-z]*$/.ko/' "$tree/modules.order" >"$to/modules.order"
depmod -b /guest "$release"
for name in $early; do
	modprobe -d /guest -S "$release" --show-depends "$name" 2>/dev/null || true
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >/guest/early
