#!/usr/bin/env bash
# Build what a release ships: wheel and source, twice and compared, a list of what stands in them, licences, known
# faults of what is installed with it.
#
#   .ci/release.sh                          into dist/, what is installed with it in an environment of its own
#   .ci/release.sh FOLDER ENVIRONMENT       a rehearsal in an environment that there is, such as .venv
#   .ci/release.sh FOLDER none              the builds alone
#
# A version with `.dev` needs no dated heading in CHANGELOG.md.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
shipped=${2:-}

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
"$tools/build/bin/pip" install --quiet --disable-pip-version-check build==1.6.1 hatchling==1.27.0
rm -rf "$out"
# Without isolation: both builds have the one hatchling from above, and need no index.
"$tools/build/bin/python" -m build --no-isolation --outdir "$out" . >/dev/null
"$tools/build/bin/python" -m build --no-isolation --outdir "$tools/again" . >/dev/null
for file in "$out"/*; do
  cmp "$file" "$tools/again/$(basename "$file")" || { echo "$file differs when it is built again" >&2; exit 1; }
done
echo "built twice, the same bytes: $(cd "$out" && echo *)"

[ "$shipped" != none ] || exit 0

"$tools/build/bin/pip" install --quiet --disable-pip-version-check \
  cyclonedx-bom==7.5.0 pip-licenses==5.5.5 pip-audit==2.10.1
if [ -z "$shipped" ]; then # an environment that holds nothing else
  shipped=$tools/shipped
  python3 -m venv "$shipped"
  "$shipped/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt \
    "$(echo "$out"/*.whl)[worker,research,oidc,postgresql,tracing]"
fi
"$shipped/bin/chexfract-node" --version
"$tools/build/bin/cyclonedx-py" environment "$shipped" --output-reproducible \
  --output-file "$out/chexfract-node-$version.cdx.json"
"$tools/build/bin/pip-licenses" --python "$shipped/bin/python" --from=mixed --format=markdown --with-urls \
  --output-file "$out/chexfract-node-$version.licences.md" >/dev/null
"$shipped/bin/python" .ci/licences.py

# Faults that are known today; where no index of them answers, that is said and the release goes on.
"$shipped/bin/python" -m pip freeze --exclude-editable --exclude chexfract-node >"$tools/installed.txt"
timeout 300 "$tools/build/bin/pip-audit" --no-deps --disable-pip -r "$tools/installed.txt" \
  --format=json --output="$tools/audit.json" 2>/dev/null || true
python3 .ci/audit.py "$tools/audit.json"
(cd "$out" && sha256sum ./*.whl ./*.tar.gz ./*.json ./*.md >SHA256SUMS)
ls -l "$out"
