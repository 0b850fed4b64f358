#!/usr/bin/env bash
# Build what a release ships, into dist/: wheel and source, twice and compared, a list of what stands in them, licences,
# known faults of what is installed with it. A version with `.dev` is a rehearsal: the same steps, no heading needed.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' dicom_node/base/version.py)
case $version in
  *.dev*) grep -q '^## \[Unreleased\]' CHANGELOG.md || { echo "CHANGELOG.md has no heading ## [Unreleased]" >&2; exit 1; } ;;
  *) grep -q "^## \[$version\] - 20" CHANGELOG.md || { echo "CHANGELOG.md has no dated heading ## [$version]" >&2; exit 1; } ;;
esac
[ -z "$(git status --porcelain)" ] || { echo "the working tree is not clean" >&2; exit 1; }

# The same commit gives the same bytes: times in the archives are the commit's.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/build"
"$tools/build/bin/pip" install --quiet --disable-pip-version-check \
  build==1.6.1 cyclonedx-bom==7.5.0 pip-licenses==5.5.5 pip-audit==2.10.1
rm -rf dist
"$tools/build/bin/python" -m build --outdir dist . >/dev/null
"$tools/build/bin/python" -m build --outdir "$tools/again" . >/dev/null
for file in dist/*; do
  cmp "$file" "$tools/again/$(basename "$file")" || { echo "$file differs when it is built again" >&2; exit 1; }
done

# What is installed with it, in an environment that holds nothing else.
python3 -m venv "$tools/shipped"
"$tools/shipped/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt \
  "$(echo dist/*.whl)[worker,oidc,postgresql]"
"$tools/shipped/bin/chexfract-node" --version
"$tools/build/bin/cyclonedx-py" environment "$tools/shipped" --output-reproducible \
  --output-file "dist/chexfract-node-$version.cdx.json"
"$tools/build/bin/pip-licenses" --python "$tools/shipped/bin/python" --from=mixed --format=markdown --with-urls \
  --output-file "dist/chexfract-node-$version.licences.md" >/dev/null
"$tools/build/bin/pip-licenses" --python "$tools/shipped/bin/python" --from=mixed --format=json \
  --output-file "$tools/licences.json" >/dev/null
python3 .ci/licences.py "$tools/licences.json"

# Faults that are known today; where no index of them answers, that is said and the release goes on.
"$tools/shipped/bin/pip" freeze --exclude chexfract-node >"$tools/installed.txt"
if timeout 300 "$tools/build/bin/pip-audit" --no-deps --disable-pip -r "$tools/installed.txt" 2>"$tools/audit.err"; then
  echo "pip-audit: nothing known"
elif grep -Eq "vulnerabilities|vulnerability" "$tools/audit.err"; then
  cat "$tools/audit.err" >&2
  exit 1
else
  echo "pip-audit: NO INDEX ANSWERED, nothing was looked up" >&2
fi
(cd dist && sha256sum ./*.whl ./*.tar.gz ./*.json ./*.md >SHA256SUMS)
ls -l dist
