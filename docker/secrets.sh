#!/bin/sh
# Makes the passwords of docker/compose.yaml, each a file of its own, and leaves those that are there.
# Containers run as users of their own and read these files as mounts: the folder keeps other people out.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
word() { head -c 32 /dev/urandom | base64 | tr -d '+/=\n'; }
for name in redis-password jobs-secret postgres-password; do
  [ -s "secrets/$name" ] || word >"secrets/$name"
done
if [ ! -s secrets/orthanc-users.json ]; then
  printf '{"RegisteredUsers": {"admin": "%s"}}\n' "$(word)" >secrets/orthanc-users.json
fi
chmod 644 secrets/*
chmod 700 secrets
echo "in $PWD/secrets; the user admin of Orthanc has the password in orthanc-users.json"
