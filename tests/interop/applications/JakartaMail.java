import jakarta.mail.Message;
import jakarta.mail.PasswordAuthentication;
import jakarta.mail.Session;
import jakarta.mail.Transport;
import jakarta.mail.internet.InternetAddress;
import jakarta.mail.internet.MimeMessage;
import java.util.Properties;

/** Jakarta Mail with the properties that Spring Boot's documentation names. */
public class JakartaMail {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("mail.smtp.host", System.getenv("RELAY_HOST"));
        properties.put("mail.smtp.port", System.getenv("RELAY_PORT"));
        properties.put("mail.smtp.auth", "true");
        properties.put("mail.smtp.starttls.enable", "true");
        properties.put("mail.smtp.starttls.required", "true");
        properties.put("mail.smtp.ssl.checkserveridentity", "true");
        properties.put("mail.smtp.connectiontimeout", "5000");
        properties.put("mail.smtp.timeout", "3000");
        properties.put("mail.smtp.writetimeout", "5000");
        Session session = Session.getInstance(properties, new jakarta.mail.Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                return new PasswordAuthentication(System.getenv("RELAY_USER"), System.getenv("RELAY_PASSWORD"));
            }
        });
        MimeMessage mail = new MimeMessage(session);
        mail.setFrom(new InternetAddress(System.getenv("SENDER")));
        mail.setRecipient(Message.RecipientType.TO, new InternetAddress(System.getenv("RECIPIENT")));
        mail.setSubject("Your code");
        mail.setText("It is 481516.");
        Transport.send(mail);
    }
}
