#!/usr/bin/env bash
# Build what a release ships, into dist/: wheel and source, twice and compared, a list of what stands in them, licences.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
grep -q "^## \[$version\]" CHANGELOG.md || { echo "CHANGELOG.md has no heading ## [$version]" >&2; exit 1; }
[ -z "$(git status --porcelain)" ] || { echo "the working tree is not clean" >&2; exit 1; }

# The same commit gives the same bytes: times in the archives are the commit's.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/build"
"$tools/build/bin/pip" install --quiet --disable-pip-version-check build==1.6.1 cyclonedx-bom==7.5.0 pip-licenses==5.5.5
rm -rf dist
"$tools/build/bin/python" -m build --outdir dist . >/dev/null
"$tools/build/bin/python" -m build --outdir "$tools/again" . >/dev/null
for file in dist/*; do
  cmp "$file" "$tools/again/$(basename "$file")" || { echo "$file differs when it is built again" >&2; exit 1; }
done

# What is installed with it, in an environment that holds nothing else.
python3 -m venv "$tools/shipped"
"$tools/shipped/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt "$(echo dist/*.whl)[worker]"
"$tools/build/bin/cyclonedx-py" environment "$tools/shipped" --output-reproducible \
  --output-file "dist/chexfract-node-$version.cdx.json"
"$tools/build/bin/pip-licenses" --python "$tools/shipped/bin/python" --format=markdown --with-urls \
  --output-file "dist/chexfract-node-$version.licences.md" >/dev/null
(cd dist && sha256sum ./*.whl ./*.tar.gz ./*.json ./*.md >SHA256SUMS)
ls -l dist
