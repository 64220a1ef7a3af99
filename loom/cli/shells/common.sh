# What bash and zsh have in common. Nothing here starts Loom: names come from the files that its commands leave.

# The project that we are in: sets `place`, the directory of its names.
_loom_place() {
  local dir=${LOOM_PROJECT_DIR:-$PWD} id=${LOOM_PROJECT_ID-} line led=
  while [[ -z $id ]]; do
    if [[ -f $dir/.loom/config.yaml ]]; then
      while IFS= read -r line; do
        [[ $line == project_id:* ]] && id=${line#project_id:} && break
      done <"$dir/.loom/config.yaml"
      [[ -n $id ]] || return 1
    elif [[ -z $led && -f $dir/.git ]] && IFS= read -r line <"$dir/.git" && [[ $line == *"/.git/worktrees/"* ]]; then
      line=${line#gitdir: } # a worktree belongs to the repository that it was made from
      dir=${line%%/.git/worktrees/*} led=1 # once: the next might lead back
    elif [[ $dir == /* && $dir != / ]]; then
      dir=${dir%/*}
      dir=${dir:-/}
    else
      return 1
    fi
  done
  id=${id%%\#*}
  id=${id//[^0-9a-f-]/}
  place=${XDG_STATE_HOME:-$HOME/.local/state}/loom/$id/completion
}

# The names of a kind ($1) that begin with $2, of very many the first: sets `names` and `titles`.
_loom_names() {
  local name title
  names=() titles=()
  _loom_place && [[ -f $place/$1 && $2 != *[!A-Za-z0-9._-]* ]] || return 0
  while IFS=$'\t' read -r name title; do
    [[ -n $name && $name != *[!A-Za-z0-9._-]* ]] && names+=("$name") && titles+=("$title")
  done < <(grep -m 1000 -- "^$2" "$place/$1")
}

# What may follow a command ($1): sets `offer`, words, and `kind`, of names.
_loom_about() {
  case $1 in
@COMMANDS@
    *) return 1 ;;
  esac
}

# What may follow an option ($2) of a command ($1).
_loom_value() {
  case "$1 $2" in
@VALUES@
    *) return 1 ;;
  esac
}
