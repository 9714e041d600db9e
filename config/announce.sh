#!/bin/sh
# For `make run`: once this plugind answers, say where it is and what to try next. Ends when it ends.
socket=$1 pluginctl=$2 pid=$3
until "$pluginctl" --socket "$socket" status --verbose 2>/dev/null | grep -q "^plugind .*, pid $pid\$"; do
  kill -0 "$pid" 2>/dev/null || exit 0
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
