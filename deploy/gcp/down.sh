#!/usr/bin/env bash
# Takes down what up.sh has made, a part at a time, each only after you have typed its name. What holds data comes last,
# and Cloud SQL only after its protection is lifted: make a backup first (`loom backup`). Run it again as often as you
# like. What stays is free of charge: the range of private addresses, which Cloud SQL holds for days, and its peering.
set -euo pipefail
: "${PROJECT:?names the project}" "${REGION:?names the region}"
NAME="${NAME:-loom}"
DRY_RUN="${DRY_RUN:-}"
export CLOUDSDK_CORE_PROJECT="$PROJECT" CLOUDSDK_CORE_DISABLE_PROMPTS=1

remove() { # WHAT IT IS, then the command; what is not there is passed by
    local what=$1 typed word look=()
    shift
    for word; do
        case $word in
            delete | patch) look+=(describe) ;;
            --no-*) ;;
            *) look+=("$word") ;;
        esac
    done
    gcloud "${look[@]}" >/dev/null 2>&1 || { echo "There is no more of $what."; return 0; }
    printf '+ gcloud'
    printf ' %q' "$@"
    printf '\n'
    [ -z "$DRY_RUN" ] || return 0
    printf 'This takes away %s. Type %s to do it, or nothing to leave it: ' "$what" "$NAME"
    IFS= read -r typed || typed=
    if [ "$typed" = "$NAME" ]; then gcloud "$@"; else echo "Left as it is."; fi
}

gcloud projects describe "$PROJECT" >/dev/null # else who may not look would be told that nothing is there

remove "the service" run services delete "$NAME" --region="$REGION"
remove "the job for migrations" run jobs delete "$NAME-migrate" --region="$REGION"
remove "the mirror, which Loom builds anew" redis instances delete "$NAME" --region="$REGION"
remove "the images" artifacts repositories delete "$NAME" --location="$REGION"
remove "the URL of Redis" secrets delete "$NAME-redis-url"
remove "the protection of the database" sql instances patch "$NAME" --no-deletion-protection
remove "the database with all projects, and its automatic backups" sql instances delete "$NAME"
remove "the URL and password of the database" secrets delete "$NAME-database-url"
remove "the service account" iam service-accounts delete "$NAME-run@$PROJECT.iam.gserviceaccount.com"
