#!/bin/sh
# The whole story of plugind on a copy, in one terminal: `sh docs/demo.sh [BIN]`, BIN holding plugind and pluginctl.
# Shows what is really printed; ends with status 1 at the first step that is not as it says.
set -u
export LC_ALL=C.UTF-8
bin=$(cd "${1:-.venv/bin}" && pwd) || exit 1
checkout=$(cd "$(dirname "$0")/.." && pwd) || exit 1
daemon='' output=''
folder=${TMPDIR:-/tmp}
[ "${#folder}" -le 50 ] || folder=/tmp # the path of a Unix socket is short
demo=$(mktemp -d "$folder/plugind-demo-XXXXXX") || exit 1

finish() {
  status=$?
  trap - EXIT
  if [ -n "$daemon" ]; then
    kill "$daemon" 2>/dev/null
    wait "$daemon"
  fi
  rm -rf "$demo"
  exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n# %s\n' "$*"; }

fail() {
  printf '\nNot as it should be: %s\n' "$*" >&2
  [ ! -s "$demo/plugind.log" ] || { echo 'The log of plugind ends:' >&2 && tail -n 5 "$demo/plugind.log" >&2; }
  exit 1
}

# Show a command and what it prints, and insist on its exit status.
run() {
  wanted=$1
  shift
  printf '$ %s\n' "$*"
  output=$("$@" 2>&1)
  got=$?
  [ -z "$output" ] || printf '%s\n' "$output"
  [ "$got" -eq "$wanted" ] || fail "the exit status of \`$*\` is $got, and not $wanted"
}

# Insist that the last output has so many lines that match.
expect() {
  found=$(printf '%s\n' "$output" | grep -c -e "$2")
  [ "$found" -eq "$1" ] || fail "$found lines match '$2', and not $1"
}

pluginctl() { "$bin/pluginctl" --socket "$demo/run/control.sock" "$@"; }
# The pids of mock-plugin's mounts as status tells them; those of kv with `kv`.
pids() { pluginctl status | awk -v plugin="${1:-mock-plugin}" '$3 ~ plugin "$" { print $6 }' | sort -n | tr '\n' ' '; }

cp -R "$checkout/config" "$checkout/plugins" "$demo" || exit 1
sed -i '0,/pin: .*/s//pin: v1.0.0/' "$demo/config/catalog.yaml" # the checkout's own may have been moved on
chmod go-w "$demo" "$demo/config" "$demo/plugins" "$demo"/plugins/*
cat > "$demo/plugind.yaml" <<END
catalog: config/catalog.yaml
node: demo
socket: {path: run/control.sock}
runtime_dir: run
state_dir: run/state
log_dir: run/log
END
cd "$demo" || exit 1

say 'plugind starts every mount of the catalog'
printf '$ plugind --config plugind.yaml &\n'
"$bin/plugind" --config "$demo/plugind.yaml" 2> "$demo/plugind.log" &
daemon=$!
tries=0
until pluginctl status 2>/dev/null | grep -q '5 ready$'; do
  tries=$((tries + 1))
  ! pluginctl status 2>/dev/null | grep -q ' failed ' || fail 'a mount failed'
  [ "$tries" -lt 100 ] || fail 'the five mounts are not ready'
  kill -0 "$daemon" 2>/dev/null || fail 'plugind ended'
  sleep 0.1
done
run 0 pluginctl status
expect 3 'auth/mock-plugin  v1.0.0 .* ready'
first=$(pids) kv=$(pids kv)

say 'Editing the pin is staging: it shows as drift, and no process is touched'
run 0 sed -i 's/pin: v1.0.0/pin: v1.1.0/' config/catalog.yaml
run 0 pluginctl plan
expect 3 'replace  v1.0.0 → v1.1.0'
[ "$(pids)" = "$first" ] || fail "the pids were $first, and are $(pids)"

say 'A reload replaces every process of the plugin, in all namespaces'
run 0 pluginctl reload auth/mock-plugin
expect 3 'v1.0.0 → v1.1.0 .* reloaded'
run 0 pluginctl status
expect 3 'auth/mock-plugin  v1.1.0 .* ready'
second=$(pids)
for pid in $first; do
  case " $second" in *" $pid "*) fail "$pid still runs" ;; esac
  ! kill -0 "$pid" 2>/dev/null || fail "the old process $pid is alive"
done
[ "$(pids kv)" = "$kv" ] || fail "kv was touched: $kv became $(pids kv)"

say 'A bad catalog costs an error that says where, and no process'
cp config/catalog.yaml good.yaml
run 0 sed -i 's/pin: v1.1.0/pni: v1.1.0/; s/version: v1.0.0/version: v9/' config/catalog.yaml
run 2 pluginctl reload auth/mock-plugin
expect 1 'catalog.yaml:14:7: unknown key "pni": did you mean "pin"?'
expect 1 'secret/kv has no version "v9"'
cp good.yaml config/catalog.yaml

say 'A file that is not what the catalog says is refused'
run 0 sed -i 's/sha256: de2092/sha256: de2093/' config/catalog.yaml
run 2 pluginctl reload auth/mock-plugin
expect 3 'has SHA-256 de2092.*, the catalog says de2093'
cp good.yaml config/catalog.yaml
[ "$(pids)" = "$second" ] || fail "the pids were $second, and are $(pids)"

say 'A version that does not come up is rolled back, and the answer says why'
run 0 pluginctl pin auth/mock-plugin v1.2.0-broken
run 1 pluginctl reload auth/mock-plugin
expect 3 'v1.1.0 → v1.1.0 .* rolled back'
expect 3 'it is broken on purpose'
run 0 pluginctl status
expect 3 'auth/mock-plugin  v1.1.0 .* ready .* pinned v1.2.0-broken'
[ "$(pids kv)" = "$kv" ] || fail "kv was touched: $kv became $(pids kv)"
last="$(pids)$kv"

say 'SIGTERM stops every plugin, then the daemon'
printf '$ kill %s\n' "$daemon"
kill "$daemon"
wait "$daemon"
got=$?
daemon=''
[ "$got" -eq 0 ] || fail "the exit status of plugind is $got"
for pid in $last; do
  ! kill -0 "$pid" 2>/dev/null || fail "$pid is alive"
done
run 3 pluginctl status
expect 1 'cannot reach plugind'

say 'All of it as it should be'
