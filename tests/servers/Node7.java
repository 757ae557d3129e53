import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.index.mapper.MapperExtrasPlugin;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.reindex.ReindexPlugin;
import org.elasticsearch.transport.Netty4Plugin;

/** An Elasticsearch 7.17 node with rank_features: java -cp 'lib/*' Node7.java HOME PORT [SETTING=VALUE ...] */
public class Node7 extends Node {
    Node7(Environment environment) {
        super(environment, List.<Class<? extends Plugin>>of(
            Netty4Plugin.class, MapperExtrasPlugin.class, ReindexPlugin.class), false);
    }

    public static void main(String[] arguments) throws Exception {
        String home = arguments[0];
        Settings.Builder settings = Settings.builder()
            .put("path.home", home)
            .put("cluster.name", "m3-tests")
            .put("node.name", "m3-tests")
            .put("discovery.type", "single-node")
            .put("network.host", "127.0.0.1")
            .put("http.port", arguments[1])
            .put("transport.port", "0")
            .put("cluster.routing.allocation.disk.threshold_enabled", false);
        for (int i = 2; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            settings.put(pair[0], pair[1]);
        }
        Environment environment = InternalSettingsPreparer.prepareEnvironment(
            settings.build(), Map.of(), Path.of(home, "config"), () -> "m3-tests");
        new Node7(environment).start();
        Thread.currentThread().join();
    }
}
