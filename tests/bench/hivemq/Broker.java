import com.hivemq.embedded.EmbeddedExtension;
import com.hivemq.embedded.EmbeddedHiveMQ;
import com.hivemq.extension.sdk.api.ExtensionMain;
import com.hivemq.extension.sdk.api.auth.SimpleAuthenticator;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartOutput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopOutput;
import com.hivemq.extension.sdk.api.services.Services;
import java.nio.file.Path;

/** HiveMQ CE as the benchmarks of a cluster use it: it lets nobody in without an extension that says so. Its argument is a directory with conf, data and extensions. */
public final class Broker {
    public static void main(String[] arguments) {
        Path home = Path.of(arguments[0]);
        EmbeddedExtension everybody = EmbeddedExtension.builder()
            .withId("everybody").withName("everybody").withVersion("1").withPriority(0).withStartPriority(1000).withAuthor("raftmq-bench")
            .withExtensionMain(new Everybody()).build();
        EmbeddedHiveMQ.builder()
            .withConfigurationFolder(home.resolve("conf")).withDataFolder(home.resolve("data")).withExtensionsFolder(home.resolve("extensions"))
            .withEmbeddedExtension(everybody).build().start().join();
    }

    static final class Everybody implements ExtensionMain {
        @Override
        public void extensionStart(ExtensionStartInput input, ExtensionStartOutput output) {
            SimpleAuthenticator in = (asked, answer) -> answer.authenticateSuccessfully();
            Services.securityRegistry().setAuthenticatorProvider(provided -> in);
        }

        @Override
        public void extensionStop(ExtensionStopInput input, ExtensionStopOutput output) {}
    }
}
