import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.InvalidKeySpecException;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Duration;
import java.util.Base64;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** Acknowledges for a hook, over TLS with a client certificate: java Acknowledge.java (17 or newer). */
public class Acknowledge {
    private static final char[] NO_PASSWORD = new char[0];

    public static void main(String[] arguments) throws Exception {
        String directory = System.getenv().getOrDefault("KRAKE_CERT", "/etc/krake_cert");
        HttpClient client = HttpClient.newBuilder()
            .sslContext(tls(Path.of(directory)))
            .connectTimeout(Duration.ofSeconds(10))
            .build();
        // A token has no character that JSON would have to escape.
        String body = "{\"token\":\"" + System.getenv("KRAKE_TOKEN") + "\"}";
        HttpRequest request = HttpRequest.newBuilder(URI.create(System.getenv("KRAKE_COMPLETE_URL")))
            .timeout(Duration.ofSeconds(30))
            .PUT(HttpRequest.BodyPublishers.ofString(body))
            .build();
        HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body());
        System.exit(answer.statusCode() == 200 ? 0 : 1);
    }

    /** Reads the files anew, so call it for each acknowledgement, or after a failed one. */
    static SSLContext tls(Path directory) throws Exception {
        KeyStore authorities = emptyStore();
        int number = 0;
        for (Certificate authority : certificates(Files.readString(directory.resolve("ca-bundle.pem")))) {
            authorities.setCertificateEntry("authority-" + number++, authority);
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(authorities);

        // One read of one file: key and certificate are of the same renewal.
        String bundle = Files.readString(directory.resolve("bundle.pem"));
        KeyStore own = emptyStore();
        own.setKeyEntry("krake", privateKey(bundle), NO_PASSWORD, certificates(bundle));
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, NO_PASSWORD);

        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    private static KeyStore emptyStore() throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        return store;
    }

    private static Certificate[] certificates(String pem) throws GeneralSecurityException {
        Pattern blocks = Pattern.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", Pattern.DOTALL);
        StringBuilder found = new StringBuilder();
        Matcher block = blocks.matcher(pem);
        while (block.find()) {
            found.append(block.group()).append('\n');
        }
        InputStream stream = new ByteArrayInputStream(found.toString().getBytes(StandardCharsets.US_ASCII));
        return CertificateFactory.getInstance("X.509").generateCertificates(stream).toArray(new Certificate[0]);
    }

    private static PrivateKey privateKey(String pem) throws GeneralSecurityException {
        String begin = "-----BEGIN PRIVATE KEY-----";
        int from = pem.indexOf(begin) + begin.length();
        String base64 = pem.substring(from, pem.indexOf("-----END PRIVATE KEY-----"));
        PKCS8EncodedKeySpec key = new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(base64));
        for (String algorithm : new String[] {"EC", "RSA", "Ed25519"}) {
            try {
                return KeyFactory.getInstance(algorithm).generatePrivate(key);
            } catch (InvalidKeySpecException another) {
                // The next one.
            }
        }
        throw new GeneralSecurityException("a private key of an unknown algorithm");
    }
}
