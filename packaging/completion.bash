# bash completion for kadalu-quotad
_kadalu_quotad() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command='' word
    COMPREPLY=()
    case $previous in
        --config | --glusterd-dir)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        --log-level)
            mapfile -t COMPREPLY < <(compgen -W 'DEBUG INFO WARNING ERROR' -- "$current")
            return
            ;;
        --crawl-interval | --volume | --brick) return ;;
    esac
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
            run | status | report | check | explain | once | config) command=$word ;;
        esac
    done
    local words='--help --config --glusterd-dir'
    case $command in
        '') words='run status report check explain once config --help --version' ;;
        run) words="$words --crawl-interval --log-level" ;;
        once) words="$words --json --dry-run" ;;
        config) ;;
        status) words="$words --json --volume --brick --troubled" ;;
        report | check) words="$words --json --volume --brick" ;;
        *) words="$words --json" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _kadalu_quotad kadalu-quotad
