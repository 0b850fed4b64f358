#!/usr/bin/env bash
# Install the peers that the tests talk to, group by group: one package that is missing must not hide the others.
set -euo pipefail

found() { PATH="$PATH:/usr/sbin:/usr/lib/postgresql/bin" command -v "$1" >/dev/null; }

# What proves a group (a program or a file) | the packages that bring it. Node.js from elsewhere brings an npm that
# Debian's package conflicts with, so npm is asked for only where none is on PATH.
groups=(
  "storescu dcmdjpeg|dcmtk"
  "Orthanc /usr/share/orthanc/plugins/libOrthancDicomWeb.so|orthanc orthanc-dicomweb"
  "redis-server|redis-server"
  "dciodvfy dcentvfy|dicom3tools"
  "java /usr/share/java/pixelmed.jar|pixelmed-apps default-jre-headless"
  "strace|strace"
  "curl|curl"
  "make|make"
  "ip|iproute2"
  "psql /usr/lib/postgresql|postgresql"
  "systemd-analyze|systemd"
  "chromium|chromium"
  "docker-compose|docker-compose"
  "npm|npm"
  "haproxy|haproxy"
  "redis-sentinel|redis-sentinel"
  "mmdebstrap bwrap /usr/share/keyrings/debian-archive-keyring.gpg|mmdebstrap bubblewrap debian-archive-keyring"
  "nsenter setpriv|util-linux"
  "promtool|prometheus"
  "kubectl|kubernetes-client"
)

proved() {
  local proof
  for proof in $1; do
    case $proof in
      /*) [ -e "$proof" ] || return 1 ;;
      *) found "$proof" || return 1 ;;
    esac
  done
}

missing=()
for group in "${groups[@]}"; do
  proved "${group%%|*}" || missing+=("$group")
done
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=""
[ "$(id -u)" -eq 0 ] || sudo="sudo"
# The peers are started by the tests; apt must not start a second Orthanc or Redis.
if [ ! -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' | $sudo tee /usr/sbin/policy-rc.d >/dev/null
  $sudo chmod +x /usr/sbin/policy-rc.d
fi
for try in 1 2 3; do
  $sudo apt-get update -q && break
  [ "$try" -lt 3 ] && sleep 10
done

failed=()
for group in "${missing[@]}"; do
  read -ra packages <<<"${group#*|}"
  for try in 1 2 3; do
    $sudo apt-get install -y -q --no-install-recommends "${packages[@]}" && continue 2
    [ "$try" -lt 3 ] && sleep 10
  done
  # the validators come from the environment then, see .ci/run
  [ "${packages[*]}" = dicom3tools ] || failed+=("${packages[*]}")
done
if [ ${#failed[@]} -gt 0 ]; then
  printf 'these packages could not be installed: %s\n' "${failed[@]}" >&2
  exit 1
fi
