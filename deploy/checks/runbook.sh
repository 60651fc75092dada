# What stands in for the machine while a runbook's commands are tried (see runbook_test.go): a systemctl that starts what
# a unit says, with the unit's own command line, files and credentials, below $ROOT. Sourced by bash.
PATH=$ROOT/usr/bin:$PATH
umask 022
mkdir -p "$ROOT"/{etc/affidavit,var/lib,var/log,run/affidavit,pids,journal} "$ROOT"/etc/systemd/system
at_exit() { local u; for u in "$ROOT"/pids/*; do [ -e "$u" ] && kill "$(cat "$u")" 2>/dev/null; done; wait 2>/dev/null; return 0; }
trap at_exit EXIT

subst() { sed -f "$ROOT/subst.sed" "$@"; }

# unit_lines UNIT KEY prints the values of a key, with continued lines joined.
unit_lines() {
  local f=$ROOT/etc/systemd/system/$1.service
  [ -e "$f" ] || f=deploy/systemd/$1.service
  sed -e ':a' -e '/\\$/{N;s/\\\n *//;ba' -e '}' "$f" | sed -n "s/^$2=//p" | subst
}

# Is run in the background, where it becomes the daemon.
start_unit() {
  local u=$1 d f name file
  trap - EXIT
  export CREDENTIALS_DIRECTORY=$ROOT/run/credentials/$u.service
  mkdir -p "$CREDENTIALS_DIRECTORY" && chmod 700 "$CREDENTIALS_DIRECTORY"
  unit_lines "$u" LoadCredential | while IFS=: read -r name file; do install -m 400 "$file" "$CREDENTIALS_DIRECTORY/$name"; done
  for d in $(unit_lines "$u" StateDirectory); do mkdir -p "$ROOT/var/lib/$d"; done
  for d in $(unit_lines "$u" LogsDirectory); do mkdir -p "$ROOT/var/log/$d"; done
  for d in $(unit_lines "$u" RuntimeDirectory); do mkdir -p "$ROOT/run/$d"; chmod 700 "$ROOT/run/$d"; done
  for f in $(unit_lines "$u" EnvironmentFile); do eval "$(subst "$f")"; done
  # As systemd does: a word that is a variable is split, others aren't.
  eval "exec $(unit_lines "$u" ExecStart)" >>"$ROOT/journal/$u" 2>&1
}

running() { [ -e "$ROOT/pids/$1" ] && kill -0 "$(cat "$ROOT/pids/$1")" 2>/dev/null; }

systemctl() {
  local verb=$1 u pid i; shift
  for u in "$@"; do
    u=${u%.service}
    case $verb in
    daemon-reload | enable | --now) ;;
    start)
      start_unit "$u" &
      pid=$!
      echo $pid >"$ROOT/pids/$u"
      # systemd doesn't wait for that; but a person is slower than this script.
      for i in $(seq 200); do
        kill -0 $pid 2>/dev/null || break
        grep -qE 'listening|recording' <(tail -n +"$(($(cat "$ROOT/journal/$u.from" 2>/dev/null || echo 0) + 1))" "$ROOT/journal/$u" 2>/dev/null) && break
        sleep 0.05
      done
      wc -l <"$ROOT/journal/$u" >"$ROOT/journal/$u.from"
      ;;
    stop)
      if running "$u"; then
        pid=$(cat "$ROOT/pids/$u"); kill "$pid"
        for i in $(seq 600); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
      fi
      rm -f "$ROOT/pids/$u"
      wc -l <"$ROOT/journal/$u" >"$ROOT/journal/$u.from"
      ;;
    restart) systemctl stop "$u"; systemctl start "$u" ;;
    is-active)
      # What stops by itself takes a moment.
      for i in $(seq 60); do running "$u" || break; [ "$i" -lt 4 ] || break; sleep 0.1; done
      if running "$u"; then echo active; else echo failed; return 3; fi ;;
    *) echo "systemctl $verb is not known here" >&2; return 1 ;;
    esac
  done
}

journalctl() { # -u UNIT -n N
  cat "$ROOT/journal/$2" | tail -n "${4:-20}"
}

# witness_of_others NAME ADDRESS LOG-VKEY starts a witness of somebody else's, and prints its lines for a log policy.
witness_of_others() {
  local n=$1 addr=$2 vkey=$3 d=$ROOT/others/$1 ed pq pid i
  mkdir -p "$d"
  ed=$(affidavit keygen --type witness --name "$n.example" --out "$d/ed.key")
  pq=$(affidavit keygen --type witness-ml-dsa --name "$n.example" --out "$d/pq.key")
  printf 'logs/v0\n\nvkey %s\nqpd 86400\ncontact operator@log.example.org\n' "$vkey" >"$d/logs.txt"
  affidavit-witness --name "$n.example" --key "$d/ed.key" --key "$d/pq.key" --state "$d/state.db" --init \
    --log-list "$d/logs.txt" --listen "$addr" >"$ROOT/journal/$n" 2>&1 &
  echo $! >"$ROOT/pids/$n"
  for i in $(seq 200); do grep -q listening "$ROOT/journal/$n" && break; sleep 0.05; done
  printf 'witness %s-ed25519 %s http://%s/\nwitness %s-ml-dsa %s http://%s/\ngroup %s all %s-ed25519 %s-ml-dsa\n' \
    "$n" "$ed" "$addr" "$n" "$pq" "$addr" "$n" "$n" "$n"
}

# until_ready URL waits until a daemon is.
until_ready() { local i; for i in $(seq 200); do curl -fs -o /dev/null "$1" && return 0; sleep 0.1; done; curl -s "$1"; return 1; }
