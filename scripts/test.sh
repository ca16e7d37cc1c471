#!/usr/bin/env bash
# Runs all tests of the workspace (arguments go to `cargo test`). On Debian and Ubuntu it first installs what they need and the machine
# lacks: PostgreSQL, pgbouncer, MariaDB with Galera and rsync, Prometheus (for promtool, which tests the alerts), Chromium
# and a C compiler. The tests start servers of their own, so no system service is started.
#
# Where MySQL is installed as well (ATOMICALLY_MYSQL_BIN, or a `mysqld` that is not MariaDB's), the tests for MariaDB and the
# deadlock reports run on it once more. Debian has no package for it; Ubuntu has mysql-server-core.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

any() { # whether one of the paths is an executable file
    local path
    for path; do
        if [[ -f $path && -x $path ]]; then return 0; fi
    done
    return 1
}

present() { # whether one of the paths is a file
    local path
    for path; do
        if [[ -f $path ]]; then return 0; fi
    done
    return 1
}

installed() { # whether one of the programs is in PATH
    local program
    for program; do
        if command -v "$program" >/dev/null; then return 0; fi
    done
    return 1
}

# The places where the tests look as well.
shopt -s nullglob
missing=()
if ! command -v cc >/dev/null; then
    missing+=(build-essential)
fi
if [[ -z ${ATOMICALLY_POSTGRES_URL:-}${ATOMICALLY_POSTGRES_BIN:-} ]] && ! command -v initdb >/dev/null &&
    ! any /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb {/opt/homebrew,/usr/local}/opt/postgresql*/bin/initdb; then
    missing+=(postgresql)
fi
if [[ -z ${ATOMICALLY_PGBOUNCER_BIN:-} ]] && ! command -v pgbouncer >/dev/null &&
    ! any {/usr/sbin,/usr/local/sbin}/pgbouncer; then
    missing+=(pgbouncer)
fi
if [[ -z ${ATOMICALLY_MYSQL_URL:-}${ATOMICALLY_MARIADB_BIN:-} ]] && ! command -v mariadbd >/dev/null &&
    ! any {/usr/sbin,/usr/local/sbin,/usr/libexec}/mariadbd {/opt/homebrew,/usr/local}/opt/mariadb*/bin/mariadbd; then
    missing+=(mariadb-server)
fi
if [[ -z ${ATOMICALLY_GALERA_LIBRARY:-} ]] && ! present /usr/lib{/galera,64/galera-4,64/galera,}/libgalera_smm.so; then
    missing+=(galera-4)
fi
if ! command -v rsync >/dev/null; then
    missing+=(rsync)
fi
if [[ -z ${ATOMICALLY_CHROMIUM_BIN:-} ]] && ! { installed chromedriver && installed chromium chromium-browser google-chrome; }; then
    # Ubuntu's are snaps, and have other names.
    if grep -qs '^ID=ubuntu' /etc/os-release; then
        missing+=(chromium-browser chromium-chromedriver)
    else
        missing+=(chromium chromium-driver)
    fi
fi
if ! command -v promtool >/dev/null; then
    missing+=(prometheus)
fi

# Runs as root, in a shell of its own: installs the packages "$@" without starting what they bring.
install_quietly() {
    set -euo pipefail
    policy=/usr/sbin/policy-rc.d
    saved=$policy.before-atomically
    restore() {
        rm -f "$policy"
        if [ -e "$saved" ]; then mv "$saved" "$policy"; fi
    }
    trap restore EXIT
    trap 'exit 1' HUP INT TERM
    # A saved one that is still there is the true one: an earlier run was killed.
    if [ -e "$policy" ] && [ ! -e "$saved" ]; then mv "$policy" "$saved"; fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"

    cluster=/etc/postgresql-common/createcluster.conf
    if [ ! -e "$cluster" ]; then
        mkdir -p "${cluster%/*}"
        echo 'create_main_cluster = false' >"$cluster"
    fi

    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >/dev/null
    # Nor shall the next boot start them.
    for package; do
        service=${package%-server}
        if [ "$package" != postgresql ] && command -v systemctl >/dev/null; then
            systemctl --quiet disable "$service.service" >/dev/null 2>&1 || true
        fi
    done
}

if ((${#missing[@]})); then
    as_root=(env)
    if ((EUID != 0)); then as_root=(sudo); fi
    if ! command -v apt-get >/dev/null || ! command -v "${as_root[0]}" >/dev/null; then
        echo "Please install what the tests need and this machine lacks (Debian's names): ${missing[*]}" >&2
        exit 1
    fi
    echo "Installing ${missing[*]} ..." >&2
    "${as_root[@]}" bash -c "$(declare -f install_quietly); install_quietly \"\$@\"" bash "${missing[@]}"
fi

# One run shows all failures.
env -u ATOMICALLY_MYSQL_BIN cargo test --workspace --all-features --no-fail-fast "$@"

# The directory of a `mysqld` that is MySQL's: on many systems it is a link to MariaDB's.
mysql_directory() {
    local directory
    for directory in ${ATOMICALLY_MYSQL_BIN:-${PATH//:/ } /usr/sbin /usr/local/sbin}; do
        if [[ -x $directory/mysqld ]] && ! "$directory/mysqld" --no-defaults --version | grep -q MariaDB; then
            echo "$directory"
            return
        fi
    done
}

mysql=$(mysql_directory)
if [[ -n $mysql && -z ${ATOMICALLY_MYSQL_URL:-} && $# -eq 0 ]]; then
    echo "Testing on MySQL in $mysql ..." >&2
    export ATOMICALLY_MYSQL_BIN=$mysql
    cargo test --all-features --test mysql
    cargo test --all-features --test deadlocks mariadb
fi
