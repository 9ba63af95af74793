<?php
// PHPMailer, with its defaults.
require '/usr/share/php/libphp-phpmailer/autoload.php';

$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
[$mail->Host, $mail->Port] = [getenv('RELAY_HOST'), (int) getenv('RELAY_PORT')];
[$mail->SMTPAuth, $mail->SMTPSecure] = [true, PHPMailer\PHPMailer\PHPMailer::ENCRYPTION_STARTTLS];
[$mail->Username, $mail->Password] = [getenv('RELAY_USER'), getenv('RELAY_PASSWORD')];
$mail->setFrom(getenv('SENDER'), 'Shop');
$mail->addAddress(getenv('RECIPIENT'));
[$mail->Subject, $mail->Body] = ['Your code', 'It is 481516.'];
$mail->send();
