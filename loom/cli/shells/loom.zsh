#compdef loom
# Completion of `loom` in zsh, made by `loom completion zsh`.
@COMMON@
_loom() {
  local at=loom offer kind place word i
  local -a names titles plain shown
  for ((i = 2; i < CURRENT; i++)); do
    _loom_about "$at $words[i]" && at="$at $words[i]"
  done
  _loom_value "$at" "$words[CURRENT-1]" || _loom_about "$at"
  for word in ${=offer}; do
    [[ $word != -* || $PREFIX == -* ]] && plain+=("$word")
  done
  compadd -a plain
  case $kind in
    files) _files ;;
    ?*)
      _loom_names "$kind" "$PREFIX"
      for ((i = 1; i <= $#names; i++)); do
        shown+=("$names[i]  $titles[i]")
      done
      compadd -l -d shown -a names
      ;;
  esac
}
if [[ $funcstack[1] == _loom ]]; then
  _loom "$@"
else
  compdef _loom loom
fi
