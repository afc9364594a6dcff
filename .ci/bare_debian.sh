#!/usr/bin/env bash
# Runs README's commands in a minimal Debian, and prints the seconds of each.
#
#   .ci/bare_debian.sh SUITE [COMMAND...]
#   .ci/bare_debian.sh trixie
#   .ci/bare_debian.sh bookworm 'make train CONFIG=toy'
#   KEEP=1 .ci/bare_debian.sh trixie 'make test ARGS=tests/envs'
#
# SUITE is bookworm (Python 3.11), trixie (Python 3.13) or another release. The
# system holds python3 with venv, cmake, g++, make and git, and no `python`.
# COMMANDs are `make train` and `make test` unless given; they run in a fresh
# clone of the last commit. Needs root and debootstrap.
#
#   ROOT    folder of the systems, kept for the next call; /var/tmp/bare_debian
#   KEEP    1 brings the last call's clone up to date and keeps its .venv
#   MIRROR  where packages come from; this machine's own if that is a Debian
#   HGPO_TEST_DATA  released games for tests; ../shared/data if it is there
#
# How this machine reaches package indexes (pip and apt settings, certificates,
# proxies, folders that pip reads) holds inside too.
set -euo pipefail

if [[ $# -eq 0 || $EUID -ne 0 ]]; then
  echo 'usage, as root: .ci/bare_debian.sh SUITE [COMMAND...]' >&2
  exit 2
fi
command -v debootstrap >/dev/null || {
  echo 'debootstrap was not found: apt-get install debootstrap' >&2
  exit 2
}
# Mounts live in a namespace of this process: they go when it ends, however.
if [[ -z ${BARE_DEBIAN_INSIDE-} ]]; then
  BARE_DEBIAN_INSIDE=1 exec unshare --mount --propagation private "$0" "$@"
fi

suite=$1
shift
[[ $# -gt 0 ]] || set -- 'make train' 'make test'
source=$(cd "$(dirname "$0")/.." && pwd)
system=${ROOT:-/var/tmp/bare_debian}/$suite

apt_setting() { # the value of one of apt's settings, or nothing
  local VALUE=
  eval "$(apt-config shell VALUE "$1" 2>/dev/null)"
  echo "$VALUE"
}

install_system() {
  local partial=$system.partial proxy mirror
  proxy=${http_proxy-$(apt_setting Acquire::http::Proxy)}
  mirror=${MIRROR-$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 2>/dev/null | sed -n 1p)}
  rm -rf "$partial"
  mkdir -p "$partial"
  http_proxy=$proxy debootstrap --variant=minbase \
    --include=ca-certificates,cmake,g++,git,make,python3,python3-venv \
    "$suite" "$partial" ${mirror:+"$mirror"} >"$system.log" 2>&1 || {
    tail -n 20 "$system.log" >&2
    exit 1
  }
  mv "$partial" "$system"
}

inherit() { # a file is copied to the same place inside, a folder mounted there
  local path
  for path; do
    if [[ -d $path ]]; then
      mkdir -p "$system$path"
      mount --rbind "$path" "$system$path"
    elif [[ -f $path ]]; then
      mkdir -p "$(dirname "$system$path")"
      cp -L "$path" "$system$path"
    fi
  done
}

[[ -d $system ]] || install_system
mkdir -p "$system/dev" "$system/proc" "$system/sys"
mount -t proc proc "$system/proc"
mount --rbind /sys "$system/sys"
mount --rbind /dev "$system/dev"

pip_files=(/etc/pip.conf /etc/xdg/pip/pip.conf "$HOME/.pip/pip.conf"
  "$HOME/.config/pip/pip.conf")
inherit /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt \
  /etc/apt/apt.conf /etc/apt/apt.conf.d "${pip_files[@]}"
# Files and folders that pip's settings name, such as an index on this disk.
mapfile -t named < <({
  cat "${pip_files[@]}" 2>/dev/null || true
  env | grep '^PIP_' || true
} | grep -oE '(^|[= ]|file://)/[^ ]+' | sed -E 's#^(=| |file://)##' | sort -u)
for path in "${named[@]}"; do
  # An index may keep its files beside the folder that is named.
  if [[ $path == */simple ]]; then path=${path%/simple}; fi
  inherit "$path"
done

clone=$system/srv/hgpo_jax
if [[ -z ${KEEP-} || ! -d $clone ]]; then
  rm -rf "$clone"
  git clone --quiet "$source" "$clone"
else
  git -C "$clone" fetch --quiet "$source" HEAD
  git -C "$clone" reset --quiet --hard FETCH_HEAD
fi
data=${HGPO_TEST_DATA:-$source/../shared/data}
if [[ -d $data ]]; then
  mkdir -p "$system/srv/shared/data"
  mount --rbind "$data" "$system/srv/shared/data"
fi

mapfile -t settings < <(env | grep -iE '^(PIP_|[a-z]*_proxy=|SSL_CERT_)' \
  | grep -v '^PIP_CONFIG_FILE=')
inside() { # runs a command in the clone, with none of this shell's variables
  env -i "${settings[@]}" HOME=/root LANG=C.UTF-8 TERM=dumb \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    chroot "$system" sh -c "cd /srv/hgpo_jax && $1"
}

echo "Debian $(<"$system/etc/debian_version"), $(inside 'python3 --version')," \
  "commit $(git -C "$clone" rev-parse --short HEAD)"
failed=0
for command; do
  SECONDS=0
  if inside "$command"; then end=passed; else end=failed failed=1; fi
  echo "$suite: $command: $end after $SECONDS s"
done
exit $failed
