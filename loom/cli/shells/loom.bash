# Completion of `loom` in bash, made by `loom completion bash`.
@COMMON@
_loom() {
  local cur=${COMP_WORDS[COMP_CWORD]} at=loom offer kind place word i
  local -a names titles
  for ((i = 1; i < COMP_CWORD; i++)); do
    _loom_about "$at ${COMP_WORDS[i]}" && at="$at ${COMP_WORDS[i]}"
  done
  _loom_value "$at" "${COMP_WORDS[COMP_CWORD - 1]}" || _loom_about "$at"
  COMPREPLY=()
  for word in $offer; do
    [[ $word == "$cur"* && ($word != -* || $cur == -*) ]] && COMPREPLY+=("$word")
  done
  case $kind in
    files) compopt -o default 2>/dev/null ;;
    ?*)
      _loom_names "$kind" "$cur"
      COMPREPLY+=(${names[@]+"${names[@]}"})
      ;;
  esac
}
complete -F _loom loom
