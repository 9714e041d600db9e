#!/bin/sh
# For `make run`: once the control socket answers, say where it is and what to try next.
socket=$1 pluginctl=$2 tries=0
while ! "$pluginctl" --socket "$socket" status >/dev/null 2>&1; do
  tries=$((tries + 1))
  [ "$tries" -lt 100 ] || exit 0
  sleep 0.1
done
cat <<END

plugind answers on $socket
Try, in a second terminal:

  $pluginctl --socket $socket status
  sed -i 's/pin: v1.0.0/pin: v1.1.0/' config/catalog.yaml
  $pluginctl --socket $socket reload auth/mock-plugin

Ctrl-C stops the plugins and the daemon.

END
