#!/usr/bin/env bash
# Brings Loom up on Google Cloud, or brings what is there up to date: run it again as often as you like.
#
#     PROJECT=my-project REGION=europe-west1 LOOM_PROJECT_ID=... deploy/gcp/up.sh
#     DRY_RUN=1 PROJECT=... REGION=... LOOM_PROJECT_ID=... deploy/gcp/up.sh    # looks, and prints what it would do
#
# Cloud Run serves, Cloud SQL holds the truth and Memorystore the mirror, both at private addresses; the two URLs lie in
# Secret Manager, which one service account may read. Each command that changes something is printed before it runs, and
# none of them removes or replaces anything. A new version: IMAGE=... or a newer checkout, and again.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${PROJECT:?names the project of the cloud}" "${REGION:?names the region, such as europe-west1}"
: "${LOOM_PROJECT_ID:?is the id in your .loom/config.yaml}"
NAME="${NAME:-loom}"                 # of everything that is made
NETWORK="${NETWORK:-default}"        # whose private addresses are used
TIER="${TIER:-db-g1-small}"          # of Cloud SQL
AVAILABILITY="${AVAILABILITY:-zonal}" # or regional: a standby in another zone, at twice the price
OWNER="${OWNER:-$(id -un)}"          # who gets the first access token
DRY_RUN="${DRY_RUN:-}"
export CLOUDSDK_CORE_PROJECT="$PROJECT" CLOUDSDK_CORE_DISABLE_PROMPTS=1

# Looked at before anything is made: some of it would be refused only once the database is there.
fits() { # VARIABLE, what its value has to match, and that in words
    [[ ${!1} =~ ^($2)$ ]] && return
    echo "$1 is '${!1}', and has to be $3. Nothing was done." >&2
    exit 2
}
fits LOOM_PROJECT_ID '[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}' "the id in your .loom/config.yaml"
fits NAME '[a-z][a-z0-9-]{0,24}[a-z0-9]' "2 to 26 of a-z, 0-9 and -, a letter first and no - last"
fits OWNER '[A-Za-z0-9._:@-]{1,58}' "a name of up to 58 letters, digits and ._:@-"
fits AVAILABILITY 'zonal|regional' "zonal or regional"

there() { gcloud "$@" >/dev/null 2>&1; }
run() {
    printf '+ gcloud'
    printf ' %q' "$@"
    printf '\n'
    [ -n "$DRY_RUN" ] || gcloud "$@"
}
asked() { # what stands for the answer in a dry run, where there may be none yet, and then the question
    local answer
    answer=$(gcloud "${@:2}") || [ -n "$DRY_RUN" ] || return 1
    [ -n "$answer$DRY_RUN" ] || { echo "gcloud ${*:2}: no answer. Run this again." >&2; return 1; }
    printf '%s' "${answer:-$1}"
}

# --- what is used, and by whom ------------------------------------------------------------------------------------------

run services enable run.googleapis.com sqladmin.googleapis.com redis.googleapis.com secretmanager.googleapis.com \
    servicenetworking.googleapis.com compute.googleapis.com artifactregistry.googleapis.com cloudbuild.googleapis.com

account="$NAME-run@$PROJECT.iam.gserviceaccount.com"
there iam service-accounts describe "$account" ||
    run iam service-accounts create "$NAME-run" --display-name="Loom, as it serves"

# --- private addresses --------------------------------------------------------------------------------------------------

there compute addresses describe "$NAME-private" --global ||
    run compute addresses create "$NAME-private" --global --purpose=VPC_PEERING --prefix-length=20 --network="$NETWORK"
gcloud services vpc-peerings list --network="$NETWORK" --format='value(reservedPeeringRanges)' 2>/dev/null |
    grep -qw "$NAME-private" ||
    run services vpc-peerings connect --service=servicenetworking.googleapis.com --network="$NETWORK" \
        --ranges="$NAME-private"

# --- PostgreSQL ---------------------------------------------------------------------------------------------------------

new= # what is made anew has another address than the one that was kept
there sql instances describe "$NAME" || {
    new=1
    run sql instances create "$NAME" --database-version=POSTGRES_17 --edition=enterprise --tier="$TIER" \
        --region="$REGION" --availability-type="$AVAILABILITY" --network="$NETWORK" --no-assign-ip \
        --storage-auto-increase --backup-start-time=03:00 --enable-point-in-time-recovery \
        --database-flags=cloudsql.iam_authentication=on --deletion-protection
}
there sql databases describe "$NAME" --instance="$NAME" ||
    run sql databases create "$NAME" --instance="$NAME"

# A secret's value goes in by standard input, and the password by a file: neither is an argument that others could see.
keep() { # NAME, its value on standard input
    there secrets describe "$1" </dev/null || run secrets create "$1" --replication-policy=automatic </dev/null
    run secrets add-iam-policy-binding "$1" --member="serviceAccount:$account" \
        --role=roles/secretmanager.secretAccessor --condition=None </dev/null
    # Last: where there is a value, nothing of this is missing, should it have been broken off.
    echo "+ gcloud secrets versions add $1 --data-file=-"
    if [ -n "$DRY_RUN" ]; then cat >/dev/null; else gcloud secrets versions add "$1" --data-file=- >/dev/null; fi
}
# Asked without reading it: who may not read a secret would otherwise make a new password each time.
if [ -n "$new" ] || ! there secrets versions describe latest --secret="$NAME-database-url"; then
    password=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
    flags=$(mktemp)
    trap 'rm -f "$flags"' EXIT
    printf -- '--password: %s\n' "$password" >"$flags"
    if there sql users describe "$NAME" --instance="$NAME"; then
        run sql users set-password "$NAME" --instance="$NAME" --flags-file="$flags"
    else
        run sql users create "$NAME" --instance="$NAME" --flags-file="$flags"
    fi
    address=$(asked ADDRESS sql instances describe "$NAME" --format='value(ipAddresses[0].ipAddress)')
    printf 'postgresql://%s:%s@%s/%s?sslmode=require' "$NAME" "$password" "$address" "$NAME" |
        keep "$NAME-database-url"
fi

# --- Redis --------------------------------------------------------------------------------------------------------------

new=
there redis instances describe "$NAME" --region="$REGION" || {
    new=1
    run redis instances create "$NAME" --region="$REGION" --tier=basic --size=1 --redis-version=redis_7_2 \
        --network="$NETWORK" --connect-mode=private-service-access --redis-config=maxmemory-policy=noeviction
}
if [ -n "$new" ] || ! there secrets versions describe latest --secret="$NAME-redis-url"; then
    address=$(asked ADDRESS redis instances describe "$NAME" --region="$REGION" --format='value(host)')
    printf 'redis://%s:6379' "$address" | keep "$NAME-redis-url"
fi

# --- the image ----------------------------------------------------------------------------------------------------------

if [ -z "${IMAGE:-}" ]; then
    there artifacts repositories describe "$NAME" --location="$REGION" ||
        run artifacts repositories create "$NAME" --location="$REGION" --repository-format=docker
    uri=$(asked REPOSITORY artifacts repositories describe "$NAME" --location="$REGION" --format='value(registryUri)')
    IMAGE="$uri/loom:$(git rev-parse --short HEAD)"
    run builds submit . --config=deploy/gcp/build.yaml --substitutions="_IMAGE=$IMAGE"
fi

# --- the schema, and then who serves ------------------------------------------------------------------------------------

number=$(gcloud projects describe "$PROJECT" --format='value(projectNumber)')
url="${PUBLIC_URL:-https://$NAME-$number.$REGION.run.app}"
common=(
    --region="$REGION" --image="$IMAGE" --service-account="$account"
    --network="$NETWORK" --subnet="${SUBNET:-$NETWORK}" --vpc-egress=private-ranges-only
    --set-env-vars="LOOM_DATABASE_URL_FILE=/secrets/database/url,LOOM_REDIS_URL_FILE=/secrets/redis/url,LOOM_PROJECT_ID=$LOOM_PROJECT_ID"
    --set-secrets="/secrets/database/url=$NAME-database-url:latest,/secrets/redis/url=$NAME-redis-url:latest"
)
run run jobs deploy "$NAME-migrate" "${common[@]}" --args=migrate --max-retries=1 --task-timeout=30m
run run jobs execute "$NAME-migrate" --region="$REGION" --wait
# A server that others can reach begins only once somebody may come in.
there run services describe "$NAME" --region="$REGION" ||
    run run jobs execute "$NAME-migrate" --region="$REGION" --wait --args="token,add,$OWNER,--role,admin,--expires,1h"
run run deploy "$NAME" "${common[@]}" --port=8080 \
    --args="serve,--http,--host,0.0.0.0,--port,8080,--behind-proxy,--public-url,$url" \
    --min="${MIN:-1}" --max-instances="${MAX:-2}" --cpu=1 --memory=1Gi --no-cpu-throttling --concurrency=200 --timeout=3600 \
    --startup-probe=httpGet.path=/readyz,httpGet.port=8080 --liveness-probe=httpGet.path=/livez,httpGet.port=8080 \
    --allow-unauthenticated # Loom asks for its own tokens

cat <<END

Loom is served at $url. The first time, the log of the job $NAME-migrate has an access token for $OWNER, which
holds for an hour: make those that last with it.
END
