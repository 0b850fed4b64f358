import com.pixelmed.validate.DicomSRValidator;
import java.io.BufferedReader;
import java.io.InputStreamReader;

/** Reads file names from standard input, one a line, and prints PixelMed's verdict on each. */
public class ValidateEach {
    public static void main(String[] arguments) throws Exception {
        BufferedReader names = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        DicomSRValidator validator = new DicomSRValidator();
        for (String name = names.readLine(); name != null; name = names.readLine()) {
            System.out.println("File " + name);
            try {
                System.out.println(validator.validate(name));
            } catch (Exception exception) {
                System.out.println("Error: " + exception);
            }
            System.out.println("End " + name);
            System.out.flush();
        }
    }
}
