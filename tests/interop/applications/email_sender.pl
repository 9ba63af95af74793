# Email::Sender with STARTTLS; it hands its options to IO::Socket::SSL, which verifies where it is told to.
use strict;
use warnings;
use Email::Sender::Simple qw(sendmail);
use Email::Sender::Transport::SMTP;
use Email::Simple;

my $transport = Email::Sender::Transport::SMTP->new({
  host => $ENV{RELAY_HOST}, port => $ENV{RELAY_PORT}, ssl => 'starttls', timeout => 10,
  sasl_username => $ENV{RELAY_USER}, sasl_password => $ENV{RELAY_PASSWORD},
});
my $mail = Email::Simple->create(
  header => [From => $ENV{SENDER}, To => $ENV{RECIPIENT}, Subject => 'Your code'],
  body => "It is 481516.\n",
);
sendmail($mail, { transport => $transport });
