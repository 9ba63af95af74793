# Postfix and Postgrey as a mail host, for the scripts that want one; they source it behind lib.sh.

# Debian's package would set a mail server up and start it.
echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
need postfix postgrey openssl

# make_postfix DOMAIN...: a Postfix beside whatever other Postfix the machine has, on `$mx_port`. It delivers into one
# maildir, $work/mail/inbox, and sends nothing anywhere. More settings: `postconf -c "$work/etc" -e`.
make_postfix() {
  mkdir -p "$work"/{etc,spool,state,mail}
  chown postfix "$work/state"
  chown nobody "$work/mail"
  cp -r /etc/postfix/postfix-files /etc/postfix/dynamicmaps.cf* "$work/etc/"
  sed -e "s/^smtp      inet.*/127.0.0.1:$mx_port inet n - n - 20 smtpd/" -e 's/^\([a-z]*  *unix  *[-ny]  *[-ny]  *\)y/\1n/' \
    /usr/share/postfix/master.cf.dist >"$work/etc/master.cf"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=mx.example.test \
    -keyout "$work/etc/mx.key" -out "$work/etc/mx.pem" 2>"$work/openssl.log"
  cat >"$work/etc/main.cf" <<CONFIG
compatibility_level = 3.6
queue_directory = $work/spool
data_directory = $work/state
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = $work/postfix.log
maillog_file_prefixes = /tmp
myhostname = mx.example.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
mynetworks =
alias_maps =
local_transport = error:5.1.1 nothing is local
default_transport = error:5.1.2 nothing leaves this machine
local_header_rewrite_clients =
smtpd_peername_lookup = no
smtputf8_enable = yes
virtual_mailbox_domains = $*
virtual_mailbox_base = $work/mail
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:$(id -u nobody)
virtual_gid_maps = static:$(id -g nobody)
smtpd_relay_restrictions = reject_unauth_destination
smtpd_tls_cert_file = $work/etc/mx.pem
smtpd_tls_key_file = $work/etc/mx.key
CONFIG
}

postfix_is() { postfix -c "$work/etc" "$1" >>"$work/postfix.log" 2>&1; }
cleanup() { postfix_is stop || true; }

start_postgrey() { # NAME PORT SECONDS [OPTION...]
  mkdir "$work/$1"
  chown postgrey "$work/$1"
  start "$1" postgrey --inet="127.0.0.1:$2" --delay="$3" --dbdir="$work/$1" --auto-whitelist-clients=0 \
    --whitelist-clients=/dev/null --whitelist-recipients=/dev/null "${@:4}"
  wait_for 10 "$1 to listen" answers "$2"
}
