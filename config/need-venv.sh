#!/bin/sh
# Debian ships python3 without venv: install it when root, otherwise say the one command that does.
python=${1:-python3}
package=$("$python" -c 'import sys; print(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")')
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing $package"
  apt-get -qq update && apt-get -qq install --yes --no-install-recommends "$package" >/dev/null && exit 0
fi
echo "cannot make a virtual environment: $python has no venv module. Run this, then try again:" >&2
if command -v sudo >/dev/null; then
  echo "  sudo apt-get install $package" >&2
else
  echo "  su -c 'apt-get install $package'" >&2
fi
exit 1
