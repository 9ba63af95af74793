<?php
// Symfony Mailer by its DSN, as `MAILER_DSN` has it.
require '/usr/share/php/Symfony/Component/Mailer/autoload.php';

use Symfony\Component\Mailer\Mailer;
use Symfony\Component\Mailer\Transport;
use Symfony\Component\Mime\Email;

$dsn = sprintf('smtp://%s:%s@%s:%d', getenv('RELAY_USER'), getenv('RELAY_PASSWORD'), getenv('RELAY_HOST'), getenv('RELAY_PORT'));
$mail = (new Email())->from(getenv('SENDER'))->to(getenv('RECIPIENT'))->subject('Reset your password')
    ->text('The code is 481516.')->html('<p>The code is <b>481516</b>.</p>');
(new Mailer(Transport::fromDsn($dsn)))->send($mail);
