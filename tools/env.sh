# Sourced by the Makefile's recipes, from the top of the checkout: finds Go, says in plain words when it is missing or
# too old, and keeps every file that building and testing make inside the checkout where the user's own folders cannot
# be written.

PATH="$PATH:/usr/local/go/bin:/usr/lib/go/bin:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

say() { printf '%s\n' "$*" >&2; }

if ! command -v go >/dev/null 2>&1; then
	say "Cairn needs Go 1.26 or newer, and found no 'go' on the PATH nor in /usr/local/go/bin."
	say "Install it from https://go.dev/dl/ (or Debian's golang package where that is new enough), then run this again."
	exit 1
fi

work="$(pwd)/.work"
if ! mkdir -p "$work/tmp" 2>/dev/null || ! [ -w "$work/tmp" ]; then
	say "Cannot write to $work as $(id -un): Cairn keeps all it makes in that one folder."
	say "Give this user the checkout (chown -R), or clone it again as this user."
	exit 1
fi
TMPDIR="$work/tmp"
export TMPDIR

# A folder the user can make files in, or one of ours.
writable() {
	case $1 in /*) ;; *) return 1 ;; esac
	mkdir -p "$1" 2>/dev/null && [ -w "$1" ]
}
writable "${HOME:-}" || { HOME="$work/home"; mkdir -p "$HOME"; export HOME; }
cache=$(go env GOCACHE 2>/dev/null) || cache=
writable "$cache" || { GOCACHE="$work/go-build"; export GOCACHE; }
modules=$(go env GOMODCACHE 2>/dev/null) || modules=
writable "$modules" || { GOPATH="$work/go"; GOMODCACHE="$work/go/pkg/mod"; export GOPATH GOMODCACHE; }
GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"
export GOFLAGS

version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)
number=${version#go}
major=${number%%.*}
minor=${number#*.}
minor=${minor%%[!0-9]*}
if ! [ "${major:-0}" -gt 1 ] 2>/dev/null && ! [ "${minor:-0}" -ge 26 ] 2>/dev/null; then
	say "Cairn needs Go 1.26 or newer; $(command -v go) is ${version:-of an unknown version}."
	say "Install a newer one from https://go.dev/dl/ and put it first on the PATH."
	exit 1
fi

free=$(df -Pk . | awk 'NR==2 {print $4}')
if [ "${free:-0}" -lt "${need_kib:-2000000}" ]; then
	say "Only $((free / 1024)) MiB are free where the checkout lies; this needs $((${need_kib:-2000000} / 1024)) MiB."
	exit 1
fi
