# Completion of `loom` in fish, made by `loom completion fish`. Nothing here starts Loom: names come from the files that
# its commands leave.

# The directory of the names of the project that we are in.
function __loom_place
    set -l id $LOOM_PROJECT_ID
    set -l dir $PWD
    set -l led
    test -n "$LOOM_PROJECT_DIR"; and set dir $LOOM_PROJECT_DIR
    while test -z "$id"
        if test -f $dir/.loom/config.yaml
            set id (string match -r -g '^project_id:([^#]*)' <$dir/.loom/config.yaml)[1]
            test -n "$id"; or return 1
        else if test -z "$led"; and test -f $dir/.git; and string match -q '*/.git/worktrees/*' <$dir/.git
            # A worktree belongs to the repository that it was made from.
            set dir (string match -r -g '^gitdir: (.*?)/\.git/worktrees/' <$dir/.git)[1]
            set led 1 # once: the next might lead back
        else if test "$dir" != /; and string match -q '/*' -- $dir
            set dir (string replace -r '/[^/]*$' '' -- $dir)
            test -n "$dir"; or set dir /
        else
            return 1
        end
    end
    set -l state $HOME/.local/state
    test -n "$XDG_STATE_HOME"; and set state $XDG_STATE_HOME
    echo $state/loom/(string replace -r -a '[^0-9a-f-]' '' -- $id)/completion
end

# What may follow a command ($at): sets `offer`, words, and `kind`, of names.
function __loom_about --no-scope-shadowing
    switch $argv[1]
@COMMANDS@
        case '*'
            return 1
    end
    return 0
end

# What may follow an option of a command.
function __loom_value --no-scope-shadowing
    switch "$argv[1] $argv[2]"
@VALUES@
        case '*'
            return 1
    end
    return 0
end

function __loom
    set -l typed (commandline -opc)
    set -l cur (commandline -ct)
    set -l at loom
    set -l offer
    set -l kind
    for word in $typed[2..]
        __loom_about "$at $word"; and set at "$at $word"
    end
    __loom_value $at $typed[-1]; or __loom_about $at
    for word in $offer
        if not string match -q -- '-*' $word; or string match -q -- '-*' $cur
            echo $word
        end
    end
    if test "$kind" = files
        __fish_complete_path $cur
    else if test -n "$kind"
        set -l file (__loom_place)/$kind
        test -f "$file"; and string match -r '^[A-Za-z0-9._-]+\t.*' <$file
    end
end
complete -c loom -f -a '(__loom)'
