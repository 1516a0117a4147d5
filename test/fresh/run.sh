#!/usr/bin/env bash
# A fresh clone, as user nobody with an empty home: make quickstart, twice, and make test. Run as root, from the checkout.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
place=$(mktemp -d "${FRESH_DIR:-/var/tmp}/cairn-fresh.XXXXXX")
trap 'chmod -R u+w "$place"; rm -rf "$place"' EXIT
git clone -q "file://$top" "$place/cairn"
mkdir "$place/home"
PATH=$PATH:/usr/local/go/bin
chown -R nobody "$place"
as_nobody() {
	setpriv --reuid=nobody --regid=nogroup --clear-groups env -i HOME="$place/home" PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
		GOPROXY="$(go env GOPROXY)" GOSUMDB="$(go env GOSUMDB)" bash -c "cd '$place/cairn' && $1"
}
for round in 1 2; do
	before=$(date +%s)
	as_nobody "make quickstart"
	echo "fresh: quickstart, round $round: $(($(date +%s) - before)) s"
	if pgrep -u nobody -f "$place" >/dev/null; then
		echo "fresh: the quickstart left processes behind:"
		pgrep -u nobody -a -f "$place"
		exit 1
	fi
done
before=$(date +%s)
as_nobody "make test"
echo "fresh: make test: $(($(date +%s) - before)) s"
echo "fresh: good"
